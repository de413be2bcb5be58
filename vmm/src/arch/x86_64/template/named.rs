//! The templates that have a name (`cpu_template`), as tables of bits.
//!
//! `T2`, `T2S` and `T2CL` make an Intel Xeon, and `T2A` an AMD EPYC, look like one of the Haswell generation; `C3` makes
//! a Xeon look like an Ivy Bridge. What each hides and shows is that of the templates of the same names of Firecracker
//! 1.17 (`docs/cpu_templates/cpu-templates.md`, `tests/data/custom_cpu_templates/*.json` there). Names of bits: Intel SDM
//! vol. 2A, `CPUID`; AMD APM vol. 3 appendix E.

use kvm_bindings::kvm_cpuid_entry2;
use vm_config::CpuidRegister::{self, Eax, Ebx, Ecx, Edx};
use vm_config::{Bitmap, CpuConfig, CpuTemplate, CpuidModifier, MsrModifier, RegisterModifier};
use vm_config::{Explain, FaultCode, FaultKind};

const MSR_IA32_ARCH_CAPABILITIES: u32 = 0x10a;

/// Family, model and stepping of leaf 1 eax.
const SIGNATURE: u32 = 0x0fff_3fff;
const SKYLAKE: u32 = 0x0005_0654;
const CASCADE_LAKE: u32 = 0x0005_0657;
const ICE_LAKE: u32 = 0x0006_06a6;
const MILAN: u32 = 0x00a0_0f11;

/// A named template on a processor that it is not for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamedTemplateError {
    /// Of another maker.
    #[error(
        "CPU vendor mismatched between actual CPU and CPU template. {0:?} is for processors of another vendor; leave cpu_template out, or PUT /cpu-config"
    )]
    Vendor(CpuTemplate),
    /// Of another model.
    #[error(
        "The current CPU model is not permitted to apply the CPU template. {name:?} is not for family, model and stepping {signature:#x}; leave cpu_template out, or PUT /cpu-config"
    )]
    Model {
        /// The template.
        name: CpuTemplate,
        /// Of leaf 1 eax.
        signature: u32,
    },
}

impl Explain for NamedTemplateError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(FaultCode::CpuTemplateProcessor)
    }
}

/// One register of CPUID: leaf, subleaf, register, bits that become 1, bits that become 0.
struct Row(u32, u32, CpuidRegister, u32, u32);

/// What a name stands for.
struct Named {
    /// Leaf 0 ebx, edx, ecx.
    vendor: [u32; 3],
    /// The processors it was made for.
    models: &'static [u32],
    rows: [&'static [Row]; 2],
    arch_capabilities: Option<Bitmap<64>>,
}

const INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];
const AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];

/// What `T2`, `T2S`, `T2CL` and `T2A` have in common.
const T2_SHARED: &[Row] = &[
    // Family 6, model 0x3f, stepping 2: Haswell-EP.
    Row(0x1, 0, Eax, 0x0003_06f2, 0x0ffc_390d),
    // No DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA.
    Row(0x1, 0, Ecx, 0, 0x0004_cdfc),
    // MCE and MTRR; no PSN, DS, ACPI, SS, TM, IA64, PBE.
    Row(0x1, 0, Edx, 0x0000_1080, 0xe864_0000),
    // ERMS; no SGX, HLE, RTM, RDT-M, MPX, RDT-A, AVX-512 (all of it), RDSEED, ADX, CLFLUSHOPT, CLWB, PT, SHA.
    Row(0x7, 0, Ebx, 0x0000_0200, 0xffef_d814),
    // No AVX512-VBMI, UMIP, PKU, OSPKE, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, LA57, RDPID, SGX-LC.
    Row(0x7, 0, Ecx, 0, 0x4041_5f5e),
    // No AVX512-4VNNIW, AVX512-4FMAPS, FSRM, AVX512-VP2INTERSECT.
    Row(0x7, 0, Edx, 0, 0x0000_011c),
    XCR0,
    XSAVE,
];

/// No state of MPX, AVX-512 and PKRU.
const XCR0: Row = Row(0xd, 0, Eax, 0, 0x0000_02f8);
/// No XSAVEC, XGETBV with ecx 1, XSAVES.
const XSAVE: Row = Row(0xd, 1, Eax, 0, 0x0000_000e);

const T2_INTEL: &[Row] = &[
    // No PREFETCHW, MONITORX.
    Row(0x8000_0001, 0, Ecx, 0, 0x2000_0100),
    // No pages of 1 GiB.
    Row(0x8000_0001, 0, Edx, 0, 0x0400_0000),
    // No WBNOINVD.
    Row(0x8000_0008, 0, Ebx, 0, 0x0000_0200),
];

/// `T2CL` with the instructions of `T2A`.
const T2CL: &[Row] = &[
    // No SSE4A, misaligned SSE, PREFETCHW, MONITORX.
    Row(0x8000_0001, 0, Ecx, 0, 0x2000_01c0),
    // No MmxExt, MMX and FXSR as AMD says them again, FFXSR, pages of 1 GiB.
    Row(0x8000_0001, 0, Edx, 0, 0x07c0_0000),
    Row(0x8000_0008, 0, Ebx, 0, 0x0000_0200),
];

const T2A: &[Row] = &[
    // No SVM, SSE4A, misaligned SSE, PREFETCHW, MONITORX.
    Row(0x8000_0001, 0, Ecx, 0, 0x2000_01c4),
    // No MmxExt, FFXSR, pages of 1 GiB.
    Row(0x8000_0001, 0, Edx, 0, 0x0640_0000),
    // RstrFpErrPtrs, IbrsPreferred, IbrsSameMode, EferLmsleUnsupported; no CLZERO, WBNOINVD.
    Row(0x8000_0008, 0, Ebx, 0x001c_0004, 0x0000_0201),
];

const C3: &[Row] = &[
    // Family 6, model 0x3e, stepping 4: Ivy Bridge-EP.
    Row(0x1, 0, Eax, 0x0003_06e4, 0x0ffc_391b),
    // No DTES64, MONITOR, DS-CPL, VMX, TM2, CNXT-ID, SDBG, FMA, xTPR, PDCM, MOVBE.
    Row(0x1, 0, Ecx, 0, 0x0040_dd3c),
    // MCE and MTRR; no PSN, DS, ACPI, SS, TM, PBE.
    Row(0x1, 0, Edx, 0x0000_1080, 0xa864_0000),
    // As T2 without ERMS, and no BMI1, AVX2, BMI2, INVPCID.
    Row(0x7, 0, Ebx, 0, 0xffaf_dd3c),
    // No AVX512-VBMI, UMIP, PKU, OSPKE, VNNI, VPOPCNTDQ, LA57, RDPID, SGX-LC.
    Row(0x7, 0, Ecx, 0, 0x4041_481e),
    // No AVX512-4VNNIW, AVX512-4FMAPS.
    Row(0x7, 0, Edx, 0, 0x0000_000c),
    XCR0,
    XSAVE,
    // No LZCNT, PREFETCHW.
    Row(0x8000_0001, 0, Ecx, 0, 0x0000_0120),
    // No pages of 1 GiB.
    Row(0x8000_0001, 0, Edx, 0, 0x0400_0000),
];

/// Exactly RSBA, SKIP_L1DFL_VMENTRY, IF_PSCHANGE_MC_NO, MISC_PACKAGE_CTLS, ENERGY_FILTERING_CTL, FB_CLEAR, RRSBA, GDS_NO
/// and RFDS_NO, so that a Skylake and a Cascade Lake say the same.
const T2S_ARCH_CAPABILITIES: Bitmap<64> = Bitmap::exactly(0x0c0a_0c4c);
/// Keeps RDCL_NO, IBRS_ALL, RSBA, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TSX_CTRL, TAA_NO, SBDR_SSDP_NO,
/// FBSDP_NO, PSDP_NO, FB_CLEAR, RRSBA, PBRSB_NO, GDS_NO, RFDS_NO and RFDS_CLEAR.
const T2CL_ARCH_CAPABILITIES: Bitmap<64> = Bitmap::new(0, !0x1d0a_e1ff);

fn of(name: CpuTemplate) -> Option<Named> {
    let (vendor, models, rows, arch_capabilities): (_, &[_], _, _) = match name {
        CpuTemplate::None => return None,
        CpuTemplate::C3 => (INTEL, &[SKYLAKE, CASCADE_LAKE, ICE_LAKE], [C3, &[]], None),
        CpuTemplate::T2 => {
            let models = &[SKYLAKE, CASCADE_LAKE, ICE_LAKE];
            (INTEL, models, [T2_SHARED, T2_INTEL], None)
        }
        CpuTemplate::T2S => {
            let msr = Some(T2S_ARCH_CAPABILITIES);
            (INTEL, &[SKYLAKE, CASCADE_LAKE], [T2_SHARED, T2_INTEL], msr)
        }
        CpuTemplate::T2CL => {
            let msr = Some(T2CL_ARCH_CAPABILITIES);
            (INTEL, &[CASCADE_LAKE, ICE_LAKE], [T2_SHARED, T2CL], msr)
        }
        CpuTemplate::T2A => (AMD, &[MILAN], [T2_SHARED, T2A], None),
    };
    Some(Named {
        vendor,
        models,
        rows,
        arch_capabilities,
    })
}

/// What `name` stands for, on a processor of which KVM supports `cpuid`.
///
/// # Errors
/// When the template was made for other processors.
pub fn named(
    name: CpuTemplate,
    cpuid: &[kvm_cpuid_entry2],
) -> Result<CpuConfig, NamedTemplateError> {
    let Some(template) = of(name) else {
        return Ok(CpuConfig::default());
    };
    let leaf = |function| cpuid.iter().find(|entry| entry.function == function);
    if leaf(0).is_none_or(|leaf| [leaf.ebx, leaf.edx, leaf.ecx] != template.vendor) {
        return Err(NamedTemplateError::Vendor(name));
    }
    let signature = leaf(1).map_or(0, |leaf| leaf.eax & SIGNATURE);
    if !template.models.contains(&signature) {
        return Err(NamedTemplateError::Model { name, signature });
    }
    if name == CpuTemplate::C3 && signature == SKYLAKE {
        tracing::warn!(
            "a Skylake does not say FBSDP_NO, PSDP_NO and SBDR_SSDP_NO; with the template C3 the guest's kernel does nothing against MMIO stale data"
        );
    }
    Ok(template.to_config())
}

impl Named {
    fn to_config(&self) -> CpuConfig {
        let rows = self.rows.iter().copied().flatten();
        let cpuid_modifiers = rows.map(|&Row(leaf, subleaf, register, set, clear)| {
            let bitmap = Bitmap::new(set.into(), clear.into());
            CpuidModifier {
                leaf,
                subleaf,
                flags: 0,
                modifiers: vec![RegisterModifier { register, bitmap }],
            }
        });
        let msr = self.arch_capabilities.map(|bitmap| MsrModifier {
            addr: MSR_IA32_ARCH_CAPABILITIES,
            bitmap,
        });
        CpuConfig {
            kvm_capabilities: Vec::new(),
            cpuid_modifiers: cpuid_modifiers.collect(),
            msr_modifiers: msr.into_iter().collect(),
        }
    }
}
