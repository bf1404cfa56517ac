/*
 * options.c
 *	  Index options and settings that the access methods have in common.
 */
#include "postgres.h"

#include "space/options.h"

static relopt_enum_elt_def quantizer_values[] =
{
	{"auto", ANN_QUANTIZER_AUTO},
	{"rabitq", ANN_QUANTIZER_RABITQ},
	{"none", ANN_QUANTIZER_NONE},
	{NULL, 0}
};

static relopt_enum_elt_def refine_values[] =
{
	{"auto", ANN_REFINE_AUTO},
	{"full", ANN_REFINE_FULL},
	{"half", ANN_REFINE_HALF},
	{"sq8", ANN_REFINE_SQ8},
	{NULL, 0}
};

/* Values of the iterative_scan settings. */
const struct config_enum_entry ann_iterative_values[] =
{
	{"off", ANN_ITERATIVE_OFF, false},
	{"relaxed_order", ANN_ITERATIVE_RELAXED, false},
	{"strict_order", ANN_ITERATIVE_STRICT, false},
	{NULL, 0, false}
};

/*
 * Adds the options quantizer and refine_type to a kind of index.
 */
void
AnnAddFormOptions(relopt_kind kind)
{
	add_enum_reloption(kind, "quantizer", "Codes of the vectors that the index is searched by.", quantizer_values,
					   ANN_QUANTIZER_AUTO, "Valid values are \"auto\", \"rabitq\" and \"none\".", AccessExclusiveLock);
	add_enum_reloption(kind, "refine_type", "Form in which the index keeps its vectors.", refine_values,
					   ANN_REFINE_AUTO, "Valid values are \"auto\", \"full\", \"half\" and \"sq8\".", AccessExclusiveLock);
}

/*
 * The value of an iterative_scan setting as text; strict order if there is none.
 */
AnnIterativeScan
AnnParseIterativeScan(const char *value)
{
	for (const struct config_enum_entry *entry = ann_iterative_values; value != NULL && entry->name != NULL; entry++)
		if (strcmp(value, entry->name) == 0)
			return (AnnIterativeScan) entry->val;
	return ANN_ITERATIVE_STRICT;
}
