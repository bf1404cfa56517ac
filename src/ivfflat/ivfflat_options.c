/*
 * ivfflat_options.c
 *	  Index options and settings of ivfflat.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "utils/guc.h"

#include "ivfflat/ivfflat_options.h"
#include "space/options.h"

static relopt_kind option_kind;

/* Values of settings; unused if another library has defined them first. */
static int	probes;
static int	max_probes = ANN_IVF_MAX_LISTS;
static int	iterative_scan;
static bool shared_settings;

/* The other library's default of ivfflat.probes: with it nobody has chosen anything. */
#define SHARED_DEFAULT_PROBES 1

/*
 * Registers options and settings; runs once per backend.
 *
 * pgvector has settings of the same names.  If its library came first, they are
 * shared: read by name, within its bounds.
 */
void
AnnIvfflatInit(void)
{
	option_kind = add_reloption_kind();
	add_int_reloption(option_kind, "lists", "Number of lists; 0 derives it from the number of rows.",
					  0, 0, ANN_IVF_MAX_LISTS, AccessExclusiveLock);
	AnnAddFormOptions(option_kind);
	add_int_reloption(option_kind, "probes", "Lists that a scan reads at first where ivfflat.probes is not set; 0 is what the build found.",
					  0, 0, ANN_IVF_MAX_LISTS, ShareUpdateExclusiveLock);

	if (AnnGucIsDefined("ivfflat.probes"))
	{
		shared_settings = true;
		ereport(LOG,
				(errmsg("the settings ivfflat.* belong to a library that was loaded before ann"),
				 errdetail("They are used within its bounds.")));
		return;
	}
	DefineCustomIntVariable("ivfflat.probes", "Lists that an ivfflat index scan reads at first.",
							"0 takes an index's option probes, or what its build found to give a recall of about 0.95.",
							&probes, 0, 0, ANN_IVF_MAX_LISTS, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("ivfflat.max_probes", "Lists after which an ivfflat index scan goes on no longer.",
							NULL,
							&max_probes, ANN_IVF_MAX_LISTS, 1, ANN_IVF_MAX_LISTS, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("ivfflat.iterative_scan", "What an ivfflat index scan does when more rows are asked for than its lists hold.",
							 "strict_order goes on and keeps the order, relaxed_order returns late rows at once, off ends.",
							 &iterative_scan, ANN_ITERATIVE_STRICT, ann_iterative_values,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

/* Probes for an index that its build had no rows to calibrate with. */
static int
uncalibratedProbes(uint32 lists)
{
	return (int) Max(1, lists / 16);
}

/*
 * Lists that a scan reads at first: the setting, else the index's option, else
 * what its build found.
 */
int
AnnIvfProbes(Relation index, const AnnIvfMetaPageData *meta)
{
	int			wanted = probes;

	if (shared_settings)
	{
		const char *value = GetConfigOption("ivfflat.probes", true, false);

		wanted = value == NULL || atoi(value) == SHARED_DEFAULT_PROBES ? 0 : atoi(value);
	}
	if (wanted == 0)
		wanted = AnnIvfOptionProbes((const AnnIvfOptions *) index->rd_options);
	if (wanted == 0)
		wanted = meta->probes > 0 ? (int) Min(meta->probes, meta->lists) : uncalibratedProbes(meta->lists);
	return Min(wanted, (int) meta->lists);
}

int
AnnIvfMaxProbes(void)
{
	const char *value = shared_settings ? GetConfigOption("ivfflat.max_probes", true, false) : NULL;

	return value != NULL ? atoi(value) : max_probes;
}

AnnIterativeScan
AnnIvfIterativeScan(void)
{
	if (shared_settings)
		return AnnParseIterativeScan(GetConfigOption("ivfflat.iterative_scan", true, false));
	return (AnnIterativeScan) iterative_scan;
}

/*
 * amoptions: parses and checks the options of an index.
 */
bytea *
ann_ivfflat_options(Datum reloptions, bool validate)
{
	static const relopt_parse_elt options[] = {
		{"lists", RELOPT_TYPE_INT, offsetof(AnnIvfOptions, lists)},
		{"quantizer", RELOPT_TYPE_ENUM, offsetof(AnnIvfOptions, quantizer)},
		{"refine_type", RELOPT_TYPE_ENUM, offsetof(AnnIvfOptions, refine_type)},
		{"probes", RELOPT_TYPE_INT, offsetof(AnnIvfOptions, probes)},
	};

	return (bytea *) build_reloptions(reloptions, validate, option_kind, sizeof(AnnIvfOptions),
									  options, lengthof(options));
}
