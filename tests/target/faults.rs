//! What must end the machine, with a report.

use core::hint::black_box;
use core::ops::Range;

use smmu_iopf::arch::exception::Syndrome;
use smmu_iopf::arch::image;
use smmu_iopf::kernel::fatal::End;

const FETCH: u64 = 0x21;
const ACCESS: u64 = 0x25;

/// ESR_ELx.WnR of an access.
const WRITE: u64 = 1 << 6;

/// Bits 5:2 of the fault status code.
const TRANSLATION: u64 = 1;
const PERMISSION: u64 = 3;

/// Whether `end` is an exception of class `class`, for reason `status`, at an address of `at`.
fn is_fault(end: &End, class: u64, status: u64, at: &Range<u64>) -> bool {
    match end {
        End::Exception { syndrome: syndrome @ Syndrome(bits), address: Some(address) } => {
            syndrome.class() == class && bits >> 2 & 0xf == status && at.contains(address)
        }
        _ => false,
    }
}

fn is_write(end: &End) -> bool {
    matches!(end, End::Exception { syndrome: Syndrome(bits), .. } if bits & WRITE != 0)
}

/// Stores to `address`, which must not be possible.
fn store(address: u64) {
    // SAFETY: none of the tests that call this lets the store happen: it must fault, and the machine ends.
    unsafe { core::ptr::write_volatile(address as *mut u64, 0) };
}

test!(fn a_write_to_code_faults(_, _) must_end_by(|end| {
    is_fault(end, ACCESS, PERMISSION, &image::code()) && is_write(end)
}) {
    store(image::code().start);
    Ok(())
});

test!(fn a_write_to_constants_faults(_, _) must_end_by(|end| {
    is_fault(end, ACCESS, PERMISSION, &image::constants()) && is_write(end)
}) {
    store(image::constants().start);
    Ok(())
});

test!(fn data_cannot_be_executed(_, _) must_end_by(|end| is_fault(end, FETCH, PERMISSION, &image::data())) {
    // SAFETY: the call must fault before it executes anything, and the machine ends.
    let data: extern "C" fn() = unsafe { core::mem::transmute(image::data().start as *const ()) };
    black_box(data)();
    Ok(())
});

test!(fn address_0_is_not_mapped(_, _) must_end_by(|end| is_fault(end, ACCESS, TRANSLATION, &(0..1))) {
    store(black_box(0));
    Ok(())
});

test!(fn a_stack_overrun_meets_the_guard(_, _) must_end_by(|end| {
    is_fault(end, ACCESS, TRANSLATION, &image::stacks())
}) {
    fn deeper(level: u64) -> u64 {
        let frame = black_box([level; 64]);
        if level == u64::MAX { 0 } else { deeper(level + 1) + frame[(level % 64) as usize] }
    }
    black_box(deeper(0));
    Ok(())
});

test!(fn a_panic_ends_the_machine(_, _) must_end_by(|end| matches!(end, End::Panic)) {
    panic!("as it must");
});
