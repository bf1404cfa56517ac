/*
 * ivfflat_runs.h
 *	  The rows of a build in the order of their lists (README, Build).
 */
#ifndef ANN_IVFFLAT_RUNS_H
#define ANN_IVFFLAT_RUNS_H

#include "storage/sharedfileset.h"

#include "ivfflat/ivfflat.h"

/* What participants share: their files, and how many each has. */
typedef struct AnnIvfSharedRuns
{
	SharedFileSet fileset;
	int			nruns[FLEXIBLE_ARRAY_MEMBER];
} AnnIvfSharedRuns;

typedef struct AnnIvfRuns AnnIvfRuns;
typedef struct AnnIvfMerge AnnIvfMerge;

extern AnnIvfRuns *AnnIvfRunsBegin(uint32 nlists, Size vector_row, Size plain_row, Size memory,
								   AnnIvfSharedRuns *shared, int participant);
extern void *AnnIvfRunsAdd(AnnIvfRuns *runs, uint32 list);
extern void AnnIvfRunsEnd(AnnIvfRuns *runs, bool for_others);
extern void AnnIvfRunsFree(AnnIvfRuns *runs);
extern AnnIvfMerge *AnnIvfMergeBegin(AnnIvfRuns *runs, int nparticipants);
extern void AnnIvfMergeEnd(AnnIvfMerge *merge);
extern void *AnnIvfMergeNext(AnnIvfMerge *merge, uint32 list);

#endif							/* ANN_IVFFLAT_RUNS_H */
