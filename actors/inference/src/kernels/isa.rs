//! Which instructions the kernels run with.

use std::fmt;

use super::lanes::Lanes;
use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512Vnni};

/// A set of instructions that this processor has. All of them give the same bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Isa {
    /// The fastest.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(avx512) = Avx512Vnni::detect() {
                return Self(Kind::Avx512Vnni(avx512));
            }
            if let Some(avx2) = Avx2::detect() {
                return Self(Kind::Avx2(avx2));
            }
        }
        Self(Kind::Portable)
    }

    /// All that can run here, slowest first.
    #[must_use]
    pub fn all_supported() -> Vec<Self> {
        let portable = Some(Kind::Portable);
        #[cfg(target_arch = "x86_64")]
        let kinds = [
            portable,
            Avx2::detect().map(Kind::Avx2),
            Avx512Vnni::detect().map(Kind::Avx512Vnni),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let kinds = [portable];
        kinds.into_iter().flatten().map(Self).collect()
    }

    /// For logs and benches.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni(_) => "avx512-vnni",
        }
    }

    /// Runs `task` compiled for these instructions.
    pub(super) fn run(self, task: impl Task) {
        match self.0 {
            Kind::Portable => task.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(avx2) => avx2.run(task),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni(avx512) => avx512.run(task),
        }
    }
}

/// A piece of work that can be compiled for any [`Lanes`].
pub(super) trait Task {
    /// Must be `#[inline(always)]`, and so must everything that it calls with `lanes`: only then is it compiled for
    /// them.
    fn run<L: Lanes>(self, lanes: L);
}
