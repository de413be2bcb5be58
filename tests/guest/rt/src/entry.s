# Entry points, the switch to ring 3, interrupt entries and gates back into ring 0.
#
# Everything here runs in ring 0, 16- or 32-bit mode, where software-backed KVM emulates one
# instruction at a time: it is short on purpose, and uses no instruction an emulator may lack.

.set CODE32, 0x08
.set CODE64, 0x10
.set DATA, 0x18
.set USER_DATA, 0x20 + 3
.set USER_CODE, 0x28 + 3
.set BOOT_TSS, 0x30

.set CR0_PE_MP_ET_NE, 0x33
.set CR0_PG, 0x80000000
.set CR4_PAE_OSFXSR_OSXMMEXCPT, 0x620
.set MSR_EFER, 0xc0000080
.set EFER_LME, 0x100
# IOPL 3, so that ring 3 may use ports; interrupts off.
.set USER_RFLAGS, 0x3002
.set RFLAGS_IF, 0x200

.set PROTOCOL_PVH, 0
.set PROTOCOL_LINUX, 1

# From 32-bit protected mode with flat segments to 64-bit code at \next.
.macro ENTER_LONG_MODE next
    lgdt [gdt_pointer]
    mov eax, CR4_PAE_OSFXSR_OSXMMEXCPT
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    mov eax, EFER_LME
    xor edx, edx
    wrmsr
    mov eax, CR0_PG + CR0_PE_MP_ET_NE
    mov cr0, eax
    # ljmp CODE64:\next, which assemblers spell in too many ways
    .byte 0xea
    .long \next
    .word CODE64
.endm

# To \entry in ring 3, on the stack whose end is in rax.
.macro ENTER_RING_3 entry
    push USER_DATA
    push rax
    push USER_RFLAGS
    push USER_CODE
    push offset \entry
    iretq
.endm

.section .text.entry, "ax", @progbits

# PVH: 32-bit protected mode, paging off, flat segments, start info in ebx.
.code32
.globl pvh_entry
pvh_entry:
    ENTER_LONG_MODE pvh_long_mode

# An application processor, out of the trampoline: 32-bit protected mode, stale data segments.
ap_entry:
    mov eax, DATA
    mov ds, eax
    mov ss, eax
    ENTER_LONG_MODE ap_long_mode

.code64
pvh_long_mode:
    mov edi, PROTOCOL_PVH
    mov esi, ebx
    jmp boot_cpu

# Linux 64-bit boot protocol: long mode, identity-mapped, zero page in rsi.
.globl linux_entry
linux_entry:
    lgdt [gdt_pointer]
    mov eax, CR4_PAE_OSFXSR_OSXMMEXCPT
    mov cr4, rax
    mov eax, offset pml4
    mov cr3, rax
    mov eax, CR0_PG + CR0_PE_MP_ET_NE
    mov cr0, rax
    mov edi, PROTOCOL_LINUX

boot_cpu:
    lidt [idt_pointer]
    mov eax, BOOT_TSS
    ltr ax
    mov esp, offset boot_ring0_stack_end
    mov eax, offset boot_stack_end - 8
    ENTER_RING_3 rt_start

# The boot processor wrote this processor's selector and stacks before it sent SIPI, and waits until
# rt_start_ap has taken them.
ap_long_mode:
    lidt [idt_pointer]
    mov eax, [starting_tss_selector]
    ltr ax
    mov rsp, [starting_ring0_stack]
    mov rax, [starting_stack]
    ENTER_RING_3 rt_start_ap

# Gates: what ring 3 cannot do itself. A breakpoint in ring 3 comes here and names the gate in r10.
.globl gate
gate:
    jmp r10

# Sleeps until an interrupt has been handled. `sti` lets none in before `hlt` has begun.
.globl gate_wait
gate_wait:
    sti
    hlt
    cli
    iretq

# Interrupt flag of the caller on and off.
.globl gate_enable_interrupts
gate_enable_interrupts:
    or dword ptr [rsp + 16], RFLAGS_IF
    iretq
.globl gate_disable_interrupts
gate_disable_interrupts:
    and dword ptr [rsp + 16], ~RFLAGS_IF
    iretq

.globl gate_read_msr
gate_read_msr:
    rdmsr
    iretq

.globl gate_write_msr
gate_write_msr:
    wrmsr
    iretq

# In ring 3 the instruction may answer with the host's values where KVM cannot intercept it.
.globl gate_cpuid
gate_cpuid:
    cpuid
    iretq

# No interrupt table, then an exception: a triple fault.
.globl gate_triple_fault
gate_triple_fault:
    lidt [null_idt_pointer]
    ud2

# Goes on where no memory is, in ring 0: KVM finds no instruction to run or emulate.
.globl gate_run_nothing
gate_run_nothing:
    mov eax, 0xd0000000
    jmp rax

# No interrupt table, then an instruction where no page is: a triple fault.
.globl gate_run_unmapped
gate_run_unmapped:
    lidt [null_idt_pointer]
    mov rax, 0x5000001234
    jmp rax

# Interrupts are off in a gate, so nothing ends this.
.globl gate_halt
gate_halt:
    hlt
    jmp gate_halt

# Every vector below 64 has a 16-byte entry: 32 exceptions, then 32 device interrupts.

.macro EXCEPTIONS vectors:vararg
.irp vector, \vectors
    .balign 16
    push 0
    push \vector
    jmp exception
.endr
.endm

.macro EXCEPTIONS_WITH_ERROR_CODE vectors:vararg
.irp vector, \vectors
    .balign 16
    push \vector
    jmp exception
.endr
.endm

.macro INTERRUPTS vectors:vararg
.irp vector, \vectors
    .balign 16
    push rax
    lock inc qword ptr [interrupt_counts + \vector * 8]
    jmp end_of_interrupt
.endr
.endm

.balign 16
.globl vector_entries
vector_entries:
    EXCEPTIONS 0, 1, 2, 3, 4, 5, 6, 7
    EXCEPTIONS_WITH_ERROR_CODE 8
    EXCEPTIONS 9
    EXCEPTIONS_WITH_ERROR_CODE 10, 11, 12, 13, 14
    EXCEPTIONS 15, 16
    EXCEPTIONS_WITH_ERROR_CODE 17
    EXCEPTIONS 18, 19, 20
    EXCEPTIONS_WITH_ERROR_CODE 21
    EXCEPTIONS 22, 23, 24, 25, 26, 27, 28
    EXCEPTIONS_WITH_ERROR_CODE 29, 30
    EXCEPTIONS 31
    INTERRUPTS 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47
    INTERRUPTS 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63

# Local APIC, end-of-interrupt register (Intel SDM 3A, 11.8.5).
end_of_interrupt:
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

# A spurious interrupt gets no end-of-interrupt (Intel SDM 3A, 11.9).
.globl spurious_interrupt
spurious_interrupt:
    iretq

# Returns into report_exception in ring 3, with vector, error code, rip, cr2 and cs.
exception:
    pop rdi
    pop rsi
    mov rdx, [rsp]
    mov rcx, cr2
    mov r8, [rsp + 8]
    mov eax, offset exception_stack_end - 8
    ENTER_RING_3 report_exception

# Real mode, copied to a page below 1 MiB: where SIPI starts a processor, with ip = 0.
.code16
.globl trampoline
trampoline:
    # lgdt cs:[trampoline_gdt_pointer - trampoline]
    .byte 0x2e, 0x0f, 0x01, 0x16
    .word trampoline_gdt_pointer - trampoline
    mov eax, CR0_PE_MP_ET_NE
    mov cr0, eax
    # ljmp CODE32:ap_entry with a 32-bit offset
    .byte 0x66, 0xea
    .long ap_entry
    .word CODE32
trampoline_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
.globl trampoline_end
trampoline_end:
.code64

.section .data.page_tables, "aw", @progbits

# Present, writable, user, accessed and (pages) dirty, so that no walker has to write them.
# The lowest 1 GiB in pages of 2 MiB; ring 3 adds the rest.
.set TABLE_FLAGS, 0x27
.set PAGE_FLAGS, 0xe7
.balign 4096
.globl pml4
pml4:
    .quad page_directory_pointers + TABLE_FLAGS
    .fill 511, 8, 0
.globl page_directory_pointers
page_directory_pointers:
    .quad first_page_directory + TABLE_FLAGS
    .fill 511, 8, 0
first_page_directory:
.set frame, 0
.rept 512
    .quad frame + PAGE_FLAGS
    .set frame, frame + 0x200000
.endr

.section .data.cpu_tables, "aw", @progbits

.balign 16
.globl gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .word boot_tss_end - boot_tss - 1
    .word boot_tss_base_0_15
    .byte boot_tss_base_16_23
    .byte 0x89, 0, 0
    .quad 0
# Task state segments of the application processors, 16 bytes each.
.globl ap_tss_descriptors
ap_tss_descriptors:
    .fill 31 * 2, 8, 0
gdt_end:

.balign 16
# The linker script splits its address.
.globl boot_tss
boot_tss:
    .long 0
    .quad boot_ring0_stack_end
    .fill 90, 1, 0
    .word 104
    # Ports 0-0xfff are allowed here as well: software-backed KVM forgets the IOPL of the iretq frame.
    .fill 0x1000 / 8, 1, 0
    .byte 0xff
boot_tss_end:

.balign 16
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
.balign 16
idt_pointer:
    .word 256 * 16 - 1
    .quad idt
.balign 16
null_idt_pointer:
    .word 0
    .quad 0

.section .bss, "aw", @nobits
.balign 16
    .skip 1024
boot_ring0_stack_end:
    .skip 4096
exception_stack_end:
    .skip 65536
boot_stack_end:
