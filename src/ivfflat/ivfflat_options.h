/*
 * ivfflat_options.h
 *	  Index options and settings of ivfflat.
 */
#ifndef ANN_IVFFLAT_OPTIONS_H
#define ANN_IVFFLAT_OPTIONS_H

#include "postgres.h"

#include "ivfflat/ivfflat.h"

/* rd_options of an ivfflat index. */
typedef struct AnnIvfOptions
{
	int32		vl_len_;
	int			lists;			/* 0: derived from the number of rows */
	int			quantizer;		/* AnnQuantizer */
	int			refine_type;	/* AnnRefineForm or ANN_REFINE_AUTO */
	int			probes;			/* 0: as calibrated */
} AnnIvfOptions;

static inline int
AnnIvfOptionLists(const AnnIvfOptions *options)
{
	return options ? options->lists : 0;
}

static inline int
AnnIvfOptionQuantizer(const AnnIvfOptions *options)
{
	return options ? options->quantizer : ANN_QUANTIZER_AUTO;
}

static inline int
AnnIvfOptionRefine(const AnnIvfOptions *options)
{
	return options ? options->refine_type : ANN_REFINE_AUTO;
}

static inline int
AnnIvfOptionProbes(const AnnIvfOptions *options)
{
	return options ? options->probes : 0;
}

/* Settings as they stand now */
extern int	AnnIvfProbes(Relation index, const AnnIvfMetaPageData *meta);
extern int	AnnIvfMaxProbes(void);
extern AnnIterativeScan AnnIvfIterativeScan(void);

extern void AnnIvfflatInit(void);
extern bytea *ann_ivfflat_options(Datum reloptions, bool validate);

/* ivfflat_handler.c */
extern void AnnIvfCostInit(void);

#endif							/* ANN_IVFFLAT_OPTIONS_H */
