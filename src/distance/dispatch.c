/*
 * dispatch.c
 *	  Chooses the kernels for this CPU.  No other file looks at the CPU.
 */
#include "distance/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

AnnKernels	ann_kernels;

#if defined(__x86_64__)

/*
 * __builtin_cpu_supports also asks the operating system (XCR0) whether it saves
 * the registers.  Not every compiler knows "f16c" as a name; F16C uses the
 * registers of AVX, so its CPUID bit is enough beside "avx2".
 */
static int
CpuHasAvx2(void)
{
	unsigned int eax,
				ebx,
				ecx,
				edx;

	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
		__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static int
CpuHasAvx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
		__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
		__builtin_cpu_supports("avx512vpopcntdq");
}

#endif

int
AnnDistanceTables(const AnnKernels *const **tables)
{
	static const AnnKernels *usable[4];
	int			count = 0;

	usable[count++] = &ann_kernels_scalar;
#if defined(__x86_64__)
	__builtin_cpu_init();
	usable[count++] = &ann_kernels_sse2;
	if (CpuHasAvx2())
	{
		usable[count++] = &ann_kernels_avx2;
		if (CpuHasAvx512())
			usable[count++] = &ann_kernels_avx512;
	}
#elif defined(__aarch64__)
	usable[count++] = &ann_kernels_neon;
#endif

	*tables = usable;
	return count;
}

void
AnnDistanceInit(void)
{
	const AnnKernels *const *tables;
	int			count = AnnDistanceTables(&tables);

	ann_kernels = *tables[count - 1];
}
