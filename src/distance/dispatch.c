/*
 * dispatch.c
 *	  Chooses the kernels for this CPU.  No other file looks at the CPU.
 */
#include "distance/tables.h"

AnnKernels	ann_kernels;

int
AnnDistanceTables(const AnnKernels *const **tables)
{
	static const AnnKernels *usable[4];
	int			count = 0;

	usable[count++] = &ann_kernels_scalar;

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
