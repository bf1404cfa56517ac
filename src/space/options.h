/*
 * options.h
 *	  Index options, settings and checks that the access methods have in common.
 */
#ifndef ANN_SPACE_OPTIONS_H
#define ANN_SPACE_OPTIONS_H

#include "postgres.h"

#include "access/reloptions.h"
#include "utils/guc.h"

#include "space/space.h"

/* options.c */
extern const struct config_enum_entry ann_iterative_values[];

extern void AnnAddFormOptions(relopt_kind kind);
extern AnnIterativeScan AnnParseIterativeScan(const char *value);

/* opclass.c */
extern bool AnnValidateOpclass(Oid opclass, const char *am, int distance_proc, int type_proc);

#endif							/* ANN_SPACE_OPTIONS_H */
