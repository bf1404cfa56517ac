/*
 * compat.h
 *	  Differences between the server versions that ann supports (15 to 18).
 *
 * No other file of the project looks at PG_VERSION_NUM.
 */
#ifndef ANN_COMPAT_H
#define ANN_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "ann needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#include "nodes/miscnodes.h"
#define AnnEreturn(context, value, ...) ereturn(context, value, __VA_ARGS__)
#else
/* Before 16 input functions have no soft errors: every error is thrown. */
#define AnnEreturn(context, value, ...) \
	do { \
		(void) (context); \
		ereport(ERROR, __VA_ARGS__); \
		return value; \
	} while (0)
#endif

#if PG_VERSION_NUM >= 170000
#define AnnMyLxid() (MyProc->vxid.lxid)
#define AnnOldSnapshotThresholdActive() false
#else
#define AnnMyLxid() (MyProc->lxid)
#define AnnOldSnapshotThresholdActive() OldSnapshotThresholdActive()
#endif

#if PG_VERSION_NUM >= 180000
#define ANN_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "ann", .version = "1.0")
#define AnnVacuumDelayPoint() vacuum_delay_point(false)
#else
#define ANN_MODULE_MAGIC PG_MODULE_MAGIC
#define AnnVacuumDelayPoint() vacuum_delay_point()
#endif

/* mul_size and add_size: other headers bring them in with some versions only. */
#include "storage/shmem.h"

/*
 * Extending a relation.  AnnExtendRelation: by one page, whose buffer comes exclusively locked;
 * AnnExtendRelationBy: by several, to be read with RBM_ZERO_AND_LOCK.  It returns the
 * first, and sets *n to their number, which may be less than asked for.  All are zeroes.
 */
#include "storage/bufmgr.h"
#include "utils/rel.h"
#if PG_VERSION_NUM >= 160000
#define AnnExtendRelation(rel) \
	ExtendBufferedRel(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_LOCK_FIRST)
static inline BlockNumber
AnnExtendRelationBy(Relation rel, uint32 *n)
{
	Buffer		buffers[64];
	BlockNumber first = ExtendBufferedRelBy(BMR_REL(rel), MAIN_FORKNUM, NULL, 0, Min(*n, lengthof(buffers)), buffers, n);

	for (uint32 i = 0; i < *n; i++)
		ReleaseBuffer(buffers[i]);
	return first;
}
#define AnnRelationLocator(rel) ((rel)->rd_locator)
typedef RelFileLocator AnnRelationLocatorData;
#define AnnLocatorEquals(a, b) RelFileLocatorEquals(a, b)
#else
#include "storage/lmgr.h"
#include "storage/smgr.h"
static inline Buffer
AnnExtendRelation(Relation rel)
{
	Buffer		buffer;

	LockRelationForExtension(rel, ExclusiveLock);
	buffer = ReadBuffer(rel, P_NEW);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	UnlockRelationForExtension(rel, ExclusiveLock);
	return buffer;
}
/* Only the last page is written, as hash indexes do it: files have holes, which read as zeroes. */
static inline BlockNumber
AnnExtendRelationBy(Relation rel, uint32 *n)
{
	PGAlignedBlock zeroes;
	BlockNumber first;

	memset(&zeroes, 0, sizeof(zeroes));
	LockRelationForExtension(rel, ExclusiveLock);
	first = RelationGetNumberOfBlocks(rel);
	smgrextend(RelationGetSmgr(rel), MAIN_FORKNUM, first + *n - 1, zeroes.data, false);
	UnlockRelationForExtension(rel, ExclusiveLock);
	return first;
}
#define AnnRelationLocator(rel) ((rel)->rd_node)
typedef RelFileNode AnnRelationLocatorData;
#define AnnLocatorEquals(a, b) RelFileNodeEquals(a, b)
#endif

/* Counts one search of an index for the statistics and, since 18, EXPLAIN. */
#if PG_VERSION_NUM >= 180000
#define AnnCountIndexScan(scan) \
	do { \
		pgstat_count_index_scan((scan)->indexRelation); \
		if ((scan)->instrument) \
			(scan)->instrument->nsearches++; \
	} while (0)
#else
#define AnnCountIndexScan(scan) pgstat_count_index_scan((scan)->indexRelation)
#endif

/* Prices a path out of existence; since 18 the count of disabled nodes decides before costs do. */
#if PG_VERSION_NUM >= 180000
#define AnnDisablePath(path) ((path)->disabled_nodes = 2)
#else
#define AnnDisablePath(path) ((void) (path))
#endif

/* Memory of a setting's check hook, which the server frees. */
#if PG_VERSION_NUM >= 160000
#define AnnGucMalloc(size) guc_malloc(LOG, size)
#else
#define AnnGucMalloc(size) malloc(size)
#endif

/* The setting of this name, placeholders of SET included; NULL if there is none. */
#include "utils/guc_tables.h"
static inline struct config_generic *
AnnFindGuc(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return find_option(name, false, true, ERROR);
#else
	struct config_generic **variables = get_guc_variables();

	for (int i = 0; i < GetNumConfigOptions(); i++)
		if (pg_strcasecmp(variables[i]->name, name) == 0)
			return variables[i];
	return NULL;
#endif
}

/* True if a library has defined this setting. */
static inline bool
AnnGucIsDefined(const char *name)
{
	struct config_generic *variable = AnnFindGuc(name);

	return variable != NULL && !(variable->flags & GUC_CUSTOM_PLACEHOLDER);
}

/* True if a setting has been given a value, rather than its default. */
static inline bool
AnnGucIsSet(const char *name)
{
	struct config_generic *variable = AnnFindGuc(name);

	return variable != NULL && variable->source != PGC_S_DEFAULT;
}

/* The largest value of an integer setting. */
static inline int
AnnGucMaximum(const char *name)
{
	return ((struct config_int *) AnnFindGuc(name))->max;
}

/* Callbacks that an access method has since 16, 17 and 18. */
#if PG_VERSION_NUM >= 180000
#define ANN_AM_ROUTINE_EXTRA \
	.amsummarizing = false, .amcanbuildparallel = true, .aminsertcleanup = NULL, \
	.amcanhash = false, .amconsistentequality = false, .amconsistentordering = false, \
	.amgettreeheight = NULL, .amtranslatestrategy = NULL, .amtranslatecmptype = NULL
#elif PG_VERSION_NUM >= 170000
#define ANN_AM_ROUTINE_EXTRA \
	.amsummarizing = false, .amcanbuildparallel = true, .aminsertcleanup = NULL
#elif PG_VERSION_NUM >= 160000
#define ANN_AM_ROUTINE_EXTRA .amsummarizing = false
#else
#define ANN_AM_ROUTINE_EXTRA .amoptsprocnum = 0
#endif

/* Workers for a parallel build: since 17 the server asks the planner for access methods that say amcanbuildparallel. */
#if PG_VERSION_NUM >= 170000
#define AnnBuildWorkers(heap, index, info) ((info)->ii_ParallelWorkers)
#else
#define AnnBuildWorkers(heap, index, info) \
	plan_create_index_workers(RelationGetRelid(heap), RelationGetRelid(index))
#endif

/* The next datum of a sort of pass-by-value datums. */
#if PG_VERSION_NUM >= 160000
#define AnnTuplesortGetDatum(sort, value, isnull) tuplesort_getdatum(sort, true, false, value, isnull, NULL)
#else
#define AnnTuplesortGetDatum(sort, value, isnull) tuplesort_getdatum(sort, true, value, isnull, NULL)
#endif

/* A safe search_path while code of a table's owner runs; before 17 maintenance commands had none. */
#if PG_VERSION_NUM >= 170000
#define AnnRestrictSearchPath() RestrictSearchPath()
#else
#define AnnRestrictSearchPath() ((void) 0)
#endif

/*
 * A walk of a TIDBitmap of this process, in heap order.  An AnnBitmapPage has the
 * offsets of one page, or -1 of them if all of it may be meant (lossy).
 */
#include "access/htup_details.h"
#include "nodes/tidbitmap.h"
typedef struct AnnBitmapPage
{
	BlockNumber block;
	bool		recheck;
	int			noffsets;
	const OffsetNumber *offsets;
} AnnBitmapPage;

#if PG_VERSION_NUM >= 180000
typedef struct AnnBitmapWalk
{
	TBMPrivateIterator *iterator;
	OffsetNumber offsets[TBM_MAX_TUPLES_PER_PAGE];
} AnnBitmapWalk;

static inline void
AnnBitmapWalkBegin(AnnBitmapWalk *walk, TIDBitmap *bitmap)
{
	walk->iterator = tbm_begin_private_iterate(bitmap);
}

static inline bool
AnnBitmapWalkNext(AnnBitmapWalk *walk, AnnBitmapPage *page)
{
	TBMIterateResult result;

	if (!tbm_private_iterate(walk->iterator, &result))
		return false;
	page->block = result.blockno;
	page->recheck = result.recheck;
	page->noffsets = result.lossy ? -1 : tbm_extract_page_tuple(&result, walk->offsets, lengthof(walk->offsets));
	page->offsets = walk->offsets;
	return true;
}

static inline void
AnnBitmapWalkEnd(AnnBitmapWalk *walk)
{
	tbm_end_private_iterate(walk->iterator);
}
#else
typedef struct AnnBitmapWalk
{
	TBMIterator *iterator;
} AnnBitmapWalk;

static inline void
AnnBitmapWalkBegin(AnnBitmapWalk *walk, TIDBitmap *bitmap)
{
	walk->iterator = tbm_begin_iterate(bitmap);
}

static inline bool
AnnBitmapWalkNext(AnnBitmapWalk *walk, AnnBitmapPage *page)
{
	const TBMIterateResult *result = tbm_iterate(walk->iterator);

	if (result == NULL)
		return false;
	page->block = result->blockno;
	page->recheck = result->recheck;
	page->noffsets = result->ntuples;
	page->offsets = result->offsets;
	return true;
}

static inline void
AnnBitmapWalkEnd(AnnBitmapWalk *walk)
{
	tbm_end_iterate(walk->iterator);
}
#endif

/* Whether the current user owns a relation. */
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/acl.h"
#if PG_VERSION_NUM >= 160000
#define AnnIsOwner(relid) object_ownercheck(RelationRelationId, relid, GetUserId())
#else
#define AnnIsOwner(relid) pg_class_ownercheck(relid, GetUserId())
#endif

/* The members of an equivalence class, those of child relations included. */
#include "access/stratnum.h"
#include "nodes/pathnodes.h"
#include "optimizer/paths.h"
#if PG_VERSION_NUM >= 180000
typedef EquivalenceMemberIterator AnnMemberIterator;
#define AnnMembersBegin(iterator, ec, relids) setup_eclass_member_iterator(iterator, ec, relids)
#define AnnMembersNext(iterator) eclass_member_iterator_next(iterator)
#define AnnPathKeyIsAscending(pathkey) ((pathkey)->pk_cmptype == COMPARE_LT)
#else
typedef struct AnnMemberIterator
{
	List	   *members;
	int			next;
} AnnMemberIterator;
static inline void
AnnMembersBegin(AnnMemberIterator *iterator, EquivalenceClass *ec, Relids relids)
{
	(void) relids;
	iterator->members = ec->ec_members;
	iterator->next = 0;
}
static inline EquivalenceMember *
AnnMembersNext(AnnMemberIterator *iterator)
{
	if (iterator->next >= list_length(iterator->members))
		return NULL;
	return (EquivalenceMember *) list_nth(iterator->members, iterator->next++);
}
#define AnnPathKeyIsAscending(pathkey) ((pathkey)->pk_strategy == BTLessStrategyNumber)
#endif

/* Since 18 a path counts the disabled nodes in it; before, they are in its costs. */
#if PG_VERSION_NUM >= 180000
#define AnnCopyDisabledNodes(to, from) ((to)->disabled_nodes = (from)->disabled_nodes)
#else
#define AnnCopyDisabledNodes(to, from) ((void) (to), (void) (from))
#endif

#if PG_VERSION_NUM >= 180000
#define AnnBeginIndexScan(heap, index, snapshot, norderbys) \
	index_beginscan(heap, index, snapshot, NULL, 0, norderbys)
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#else
#define AnnBeginIndexScan(heap, index, snapshot, norderbys) \
	index_beginscan(heap, index, snapshot, 0, norderbys)
#endif

/* utils/pg_locale.h needs the headers of ICU, which a server's development files come without. */
extern struct pg_locale_struct *pg_newlocale_from_collation(Oid collid);

#endif							/* ANN_COMPAT_H */
