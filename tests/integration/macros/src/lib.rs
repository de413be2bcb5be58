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
/// `kernel` names a binary of `tests/guest/kernels`.
#[proc_macro_attribute]
pub fn vm_test(attribute: TokenStream, item: TokenStream) -> TokenStream {
    expand(attribute, item).unwrap_or_else(|message| {
        format!("compile_error!({message:?});")
            .parse()
            .expect("a string literal is a token")
    })
}

fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream, &'static str> {
    const USAGE: &str = "write #[vm_test(kernel = \"name\")] above fn test(vm: &mut TestVm)";
    let kernel = match &attribute.into_iter().collect::<Vec<_>>()[..] {
        [
            TokenTree::Ident(key),
            TokenTree::Punct(_),
            TokenTree::Literal(kernel),
        ] if key.to_string() == "kernel" => kernel.to_string(),
        _ => return Err(USAGE),
    };
    let mut tokens = item.clone().into_iter();
    let is_fn =
        |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn");
    tokens.find(is_fn).ok_or(USAGE)?;
    let name = tokens.next().ok_or(USAGE)?.to_string();
    let test = format!(
        "#[test] fn {name}() {{ {item} integration::run(concat!(module_path!(), \"::\", {name:?}), {kernel}, {name}) }}"
    );
    test.parse().map_err(|_| USAGE)
}
