/*
 * planner.h
 *	  What the files of src/planner offer to each other and to _PG_init.
 */
#ifndef ANN_PLANNER_H
#define ANN_PLANNER_H

#include "postgres.h"

typedef enum AnnKind
{
	ANN_KIND_NONE,
	ANN_KIND_VECTOR,
	ANN_KIND_HALFVEC,
	ANN_KIND_SPARSEVEC,
	ANN_KIND_BIT
} AnnKind;

/* support.c */
extern AnnKind AnnKindOfType(Oid type);
extern bool AnnIsDistance(Oid function);

/* annscan_path.c */
extern void AnnScanInit(void);

/* formats.c */
extern void AnnFormatsInit(void);

/* workers.c */
extern void AnnWorkersInit(void);

#endif							/* ANN_PLANNER_H */
