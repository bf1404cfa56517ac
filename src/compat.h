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

#if PG_VERSION_NUM >= 160000
#define AnnRelationLocator(rel) ((rel)->rd_locator)
#else
#define AnnRelationLocator(rel) ((rel)->rd_node)
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

/*
 * Extending a relation by one page: returns the new page's buffer, exclusively
 * locked, all zeroes.
 */
#include "storage/bufmgr.h"
#include "utils/rel.h"
#if PG_VERSION_NUM >= 160000
#define AnnExtendRelation(rel) \
	ExtendBufferedRel(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_LOCK_FIRST)
#define AnnRelationLocator(rel) ((rel)->rd_locator)
#else
#include "storage/lmgr.h"
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
#define AnnRelationLocator(rel) ((rel)->rd_node)
#endif

#endif							/* ANN_COMPAT_H */
