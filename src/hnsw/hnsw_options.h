/*
 * hnsw_options.h
 *	  Index options and settings of hnsw.
 */
#ifndef ANN_HNSW_OPTIONS_H
#define ANN_HNSW_OPTIONS_H

#include "postgres.h"

#include "hnsw/hnsw.h"

/* rd_options of an hnsw index. */
typedef struct AnnHnswOptions
{
	int32		vl_len_;
	int			m;
	int			ef_construction;
	int			quantizer;		/* AnnQuantizer */
	int			refine_type;	/* AnnRefineForm or ANN_REFINE_AUTO */
	int			ef_search;		/* 0: as calibrated */
} AnnHnswOptions;

static inline int
AnnHnswOptionM(const AnnHnswOptions *options)
{
	return options ? options->m : ANN_HNSW_DEFAULT_M;
}

static inline int
AnnHnswOptionEfConstruction(const AnnHnswOptions *options)
{
	return options ? options->ef_construction : ANN_HNSW_DEFAULT_EF_CONSTRUCTION;
}

static inline int
AnnHnswOptionQuantizer(const AnnHnswOptions *options)
{
	return options ? options->quantizer : ANN_QUANTIZER_AUTO;
}

static inline int
AnnHnswOptionRefine(const AnnHnswOptions *options)
{
	return options ? options->refine_type : ANN_REFINE_AUTO;
}

static inline int
AnnHnswOptionEfSearch(const AnnHnswOptions *options)
{
	return options ? options->ef_search : 0;
}

/* Settings as they stand now */
extern int	AnnHnswEffectiveEf(Relation index, const AnnHnswMetaPageData *meta);
extern AnnIterativeScan AnnHnswIterativeScan(void);
extern int	AnnHnswMaxScanTuples(void); /* 0: no limit */
extern double AnnHnswScanMemMultiplier(void);

extern void AnnHnswInit(void);
extern bytea *ann_hnsw_options(Datum reloptions, bool validate);

/* hnsw_handler.c */
extern void AnnHnswCostInit(void);

#endif							/* ANN_HNSW_OPTIONS_H */
