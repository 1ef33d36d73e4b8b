//! Preloaded into a process (`LD_PRELOAD`), it hides AVX-512, AVX-VNNI and AMX from it: whoever asks CPUID, as all engines do, then
//! chooses its AVX2 code.
//!
//! The kernel can make CPUID fault (`arch_prctl(2)`, `ARCH_SET_CPUID`). The fault arrives as a SIGSEGV, whose handler answers in
//! CPUID's place. Threads inherit the setting; a new program loses it, and gets it again from the same preloaded library. The C
//! library has looked before and keeps its own copies and comparisons. Where CPUID cannot fault the process ends with a sentence.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("CPUID faulting is a thing of x86-64 and Linux");

mod answer;

use libc::{
    REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RIP, SIG_DFL, SIGSEGV, c_int, c_long, c_void, siginfo_t, ucontext_t,
};
use std::{mem, process, ptr, slice};

/// `asm/prctl.h`.
const ARCH_SET_CPUID: c_long = 0x1012;
/// The bytes of the instruction.
const CPUID: [u8; 2] = [0x0f, 0xa2];

/// Runs when the library is loaded, before `main`.
// SAFETY: The section's entries are functions of the C ABI; the dynamic linker calls each once.
#[unsafe(link_section = ".init_array")]
#[used]
static START: extern "C" fn() = start;

extern "C" fn start() {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_fault;
    // SAFETY: A zeroed sigaction is an empty mask and no flags; the handler has the three parameters that SA_SIGINFO means.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(SIGSEGV, &action, ptr::null_mut());
    }
    if !set_cpuid(false) {
        eprintln!("this processor or this kernel cannot make CPUID fault, so AVX-512 cannot be hidden");
        process::exit(1);
    }
}

/// Lets CPUID run, or makes it fault, in this thread; false where the processor or the kernel cannot.
fn set_cpuid(runs: bool) -> bool {
    // SAFETY: The call touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, c_long::from(runs)) == 0 }
}

/// Answers a CPUID; any other fault comes again without the handler and ends the process as it should.
extern "C" fn on_fault(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: With SA_SIGINFO the third argument is the interrupted thread's ucontext_t, ours until the handler returns.
    let registers = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let at = |register: c_int| register as usize;
    // SAFETY: The instruction at RIP has faulted or could not be fetched; in the second case this read faults too, which ends the
    // process, as SIGSEGV is blocked here.
    let instruction = unsafe { slice::from_raw_parts(registers[at(REG_RIP)] as *const u8, CPUID.len()) };
    if instruction != CPUID {
        // SAFETY: The default action is always valid.
        unsafe { libc::signal(SIGSEGV, SIG_DFL) };
        return;
    }
    let (leaf, subleaf) = (registers[at(REG_RAX)] as u32, registers[at(REG_RCX)] as u32);
    set_cpuid(true);
    let answer = answer::without_avx512(leaf, subleaf);
    set_cpuid(false);
    registers[at(REG_RAX)] = answer.eax.into();
    registers[at(REG_RBX)] = answer.ebx.into();
    registers[at(REG_RCX)] = answer.ecx.into();
    registers[at(REG_RDX)] = answer.edx.into();
    registers[at(REG_RIP)] += CPUID.len() as i64;
}
