/*
 * hnsw_options.c
 *	  Index options and settings of hnsw.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "utils/guc.h"

#include "hnsw/hnsw_options.h"
#include "space/options.h"

static relopt_kind option_kind;

/* Values of settings; those of a setting that another library has defined first stay unused. */
static int	ef_search;
static bool ef_search_is_set;
static int	iterative_scan;
static int	max_scan_tuples;
static double scan_mem_multiplier;
static bool shared_settings;

/* Notes whether a value comes from somebody or is the built-in default. */
static bool
checkEfSearch(int *value, void **extra, GucSource source)
{
	bool	   *is_set = AnnGucMalloc(sizeof(bool));

	if (is_set == NULL)
		return false;
	*is_set = source != PGC_S_DEFAULT;
	*extra = is_set;
	return true;
}

static void
assignEfSearch(int value, void *extra)
{
	ef_search_is_set = extra != NULL && *(bool *) extra;
}

/*
 * Registers options and settings; runs once per backend.
 *
 * pgvector has settings of the same names.  If its library came first, they are
 * shared: read by name, within its bounds.
 */
void
AnnHnswInit(void)
{
	option_kind = add_reloption_kind();
	add_int_reloption(option_kind, "m", "Half the number of edges of a row.",
					  ANN_HNSW_DEFAULT_M, ANN_HNSW_MIN_M, ANN_HNSW_MAX_M, AccessExclusiveLock);
	add_int_reloption(option_kind, "ef_construction", "Width of the beam that finds a new row's neighbours.",
					  ANN_HNSW_DEFAULT_EF_CONSTRUCTION, ANN_HNSW_MIN_EF_CONSTRUCTION,
					  ANN_HNSW_MAX_EF_CONSTRUCTION, AccessExclusiveLock);
	AnnAddFormOptions(option_kind);
	add_int_reloption(option_kind, "ef_search", "Width of the beam of a scan where hnsw.ef_search is not set; 0 is what was measured for it.",
					  0, 0, ANN_HNSW_MAX_EF_SEARCH, ShareUpdateExclusiveLock);

	if (AnnGucIsDefined("hnsw.ef_search"))
	{
		shared_settings = true;
		ereport(LOG,
				(errmsg("the settings hnsw.* belong to a library that was loaded before ann"),
				 errdetail("They are used within its bounds and with its defaults.")));
		return;
	}
	DefineCustomIntVariable("hnsw.ef_search", "Width of the beam of an hnsw index scan.",
							"Unless set, an index's option ef_search or what was measured for it is used.",
							&ef_search, ANN_HNSW_DEFAULT_EF_SEARCH, 1, ANN_HNSW_MAX_EF_SEARCH,
							PGC_USERSET, 0, checkEfSearch, assignEfSearch, NULL);
	DefineCustomEnumVariable("hnsw.iterative_scan", "What an hnsw index scan does when more rows are asked for than its beam found.",
							 "strict_order goes on and keeps the order, relaxed_order returns late rows at once, off ends.",
							 &iterative_scan, ANN_ITERATIVE_STRICT, ann_iterative_values,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("hnsw.max_scan_tuples", "Rows after which an hnsw index scan goes on no longer.",
							"0 is no limit.",
							&max_scan_tuples, 0, 0, INT_MAX, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("hnsw.scan_mem_multiplier", "Memory of an hnsw index scan, in multiples of work_mem.",
							 "Beyond it the rest of the index is swept and sorted.",
							 &scan_mem_multiplier, 1, 1, 1000, PGC_USERSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("hnsw");
}

/*
 * The width of a scan's beam: the setting if somebody set it, else the index's
 * option, else what its calibration found.
 */
int
AnnHnswEffectiveEf(Relation index, const AnnHnswMetaPageData *meta)
{
	int			option = AnnHnswOptionEfSearch((const AnnHnswOptions *) index->rd_options);

	if (shared_settings && AnnGucIsSet("hnsw.ef_search"))
		return atoi(GetConfigOption("hnsw.ef_search", false, false));
	if (!shared_settings && ef_search_is_set)
		return ef_search;
	if (option > 0)
		return option;
	if (meta->ef_search > 0 && meta->ef_search <= ANN_HNSW_MAX_EF_SEARCH)
		return (int) meta->ef_search;
	return ANN_HNSW_DEFAULT_EF_SEARCH;
}

AnnIterativeScan
AnnHnswIterativeScan(void)
{
	if (shared_settings)
		return AnnParseIterativeScan(GetConfigOption("hnsw.iterative_scan", true, false));
	return (AnnIterativeScan) iterative_scan;
}

int
AnnHnswMaxScanTuples(void)
{
	const char *value = shared_settings ? GetConfigOption("hnsw.max_scan_tuples", true, false) : NULL;

	return value != NULL ? atoi(value) : max_scan_tuples;
}

double
AnnHnswScanMemMultiplier(void)
{
	const char *value = shared_settings ? GetConfigOption("hnsw.scan_mem_multiplier", true, false) : NULL;

	return value != NULL ? atof(value) : Max(scan_mem_multiplier, 1);
}

/*
 * amoptions: parses and checks the options of an index.
 */
bytea *
ann_hnsw_options(Datum reloptions, bool validate)
{
	static const relopt_parse_elt options[] = {
		{"m", RELOPT_TYPE_INT, offsetof(AnnHnswOptions, m)},
		{"ef_construction", RELOPT_TYPE_INT, offsetof(AnnHnswOptions, ef_construction)},
		{"quantizer", RELOPT_TYPE_ENUM, offsetof(AnnHnswOptions, quantizer)},
		{"refine_type", RELOPT_TYPE_ENUM, offsetof(AnnHnswOptions, refine_type)},
		{"ef_search", RELOPT_TYPE_INT, offsetof(AnnHnswOptions, ef_search)},
	};

	return (bytea *) build_reloptions(reloptions, validate, option_kind, sizeof(AnnHnswOptions),
									  options, lengthof(options));
}
