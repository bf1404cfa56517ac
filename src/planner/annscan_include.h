/*
 * annscan_include.h
 *	  Conditions on included columns, which AnnScan has its index test.
 */
#ifndef ANN_ANNSCAN_INCLUDE_H
#define ANN_ANNSCAN_INCLUDE_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"
#include "utils/rel.h"

#include "space/attributes.h"

/* A test that is being run; what AnnIndexScan.filter_arg points to. */
typedef struct AnnIncludeTest AnnIncludeTest;

/* When the plan is made */
extern List *AnnIncludeMatch(PlannerInfo *root, RelOptInfo *rel, IndexOptInfo *index, List *restrictions);
extern bool AnnIncludeIsKeyed(PlannerInfo *root, IndexOptInfo *index, List *restrictions);
extern List *AnnIncludePlan(PlannerInfo *root, IndexOptInfo *index, List *clauses, List **operands);

/* When it is run */
extern AnnIncludeTest *AnnIncludeInit(Relation index, List *plan);
extern void AnnIncludeSet(AnnIncludeTest *test, List *operands, ExprContext *econtext);
extern AnnTestResult AnnIncludePasses(void *test, const char *attributes);
extern const uint32 *AnnIncludeKeys(const AnnIncludeTest *test, int *nkeys);

#endif							/* ANN_ANNSCAN_INCLUDE_H */
