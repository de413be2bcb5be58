//! The `vm_test` attribute.

use proc_macro::{TokenStream, TokenTree};

/// Makes a function a test that gets a fresh microVM, described but not started.
///
/// ```ignore
/// #[vm_test(kernel = "hello")]
/// fn hello_is_heard(vm: &mut TestVm) {
///     vm.start();
///     vm.expect_pass();
/// }
/// ```
///
/// `kernel` names a binary of `tests/guest/kernels`. After it come the transports to run on, `mmio` if none is
/// named: `#[vm_test(kernel = "irq", mmio, pci)]` makes two tests, the second with `_on_pci` behind its name.
#[proc_macro_attribute]
pub fn vm_test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(attribute, item).unwrap_or_else(|message| {
        format!("compile_error!({message:?});")
            .parse()
            .expect("a string literal is a token")
    })
}

const USAGE: &str = "write #[vm_test(kernel = \"name\")] or #[vm_test(kernel = \"name\", mmio, pci)] above fn test(vm: &mut TestVm)";

fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream, &'static str> {
    let (kernel, transports) = match &attribute.into_iter().collect::<Vec<_>>()[..] {
        [
            TokenTree::Ident(key),
            TokenTree::Punct(_),
            TokenTree::Literal(kernel),
            rest @ ..,
        ] if key.to_string() == "kernel" => (kernel.to_string(), transports(rest)?),
        _ => return Err(USAGE),
    };
    let mut tokens = item.clone().into_iter();
    let is_fn =
        |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn");
    tokens.find(is_fn).ok_or(USAGE)?;
    let name = tokens.next().ok_or(USAGE)?.to_string();
    let tests: String = transports
        .into_iter()
        .map(|(suffix, arguments)| {
            format!(
                "#[test] fn {name}{suffix}() {{ {item} integration::run(concat!(module_path!(), \"::\", {name:?}), {kernel}, &[{arguments}], {name}) }}"
            )
        })
        .collect();
    tests.parse().map_err(|_| USAGE)
}

/// For each transport that is named after commas: what its test's name ends in, and the flags it needs.
fn transports(words: &[TokenTree]) -> Result<Vec<(&'static str, &'static str)>, &'static str> {
    const MMIO: (&str, &str) = ("", "");
    const PCI: (&str, &str) = ("_on_pci", "\"--enable-pci\"");
    if words.is_empty() {
        return Ok(vec![MMIO]);
    }
    words
        .chunks(2)
        .map(|pair| match pair {
            [TokenTree::Punct(_), TokenTree::Ident(word)] => match word.to_string().as_str() {
                "mmio" => Ok(MMIO),
                "pci" => Ok(PCI),
                _ => Err(USAGE),
            },
            _ => Err(USAGE),
        })
        .collect()
}
