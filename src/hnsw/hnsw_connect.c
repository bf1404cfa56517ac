/*
 * hnsw_connect.c
 *	  Edges of a new node of the graph in memory: search, choice, links in both
 *	  directions.  README: Build.
 */
#include "postgres.h"

#include <math.h>

#include "hnsw/hnsw_graph_private.h"
#include "hnsw/hnsw_prune.h"

/* Nodes between two samples of what each alpha would keep. */
#define ALPHA_SAMPLE_EVERY 64
#define ALPHA_MIN_NODES 256
#define ALPHA_MEMORY 64			/* samples that the running mean remembers */

/* The beam is searched in steps of this many. */
#define BEAM_STEP 16

/* Links are asked for so many back-links ahead. */
#define BACK_LINKS_AHEAD 3

#define EXPANDED ((AnnGraphNode) 0x80000000)

static const float alphas[ANN_GRAPH_ALPHAS] = {1.0f, 1.1f, 1.2f, 1.3f, 1.44f, 1.6f, 1.8f, 2.0f};

/* ---- distances ---- */

/* Of two residuals as bytes. */
static inline float
int8Distance2(const AnnGraph *graph, const char *a, const char *b)
{
	const AnnGraphInt8 *x = (const AnnGraphInt8 *) a;
	const AnnGraphInt8 *y = (const AnnGraphInt8 *) b;
	float		ip = (float) ann_kernels.ip_i8(x->x, y->x, graph->shape.layout.dim);

	return x->norm * x->norm + y->norm * y->norm - 2 * x->scale * y->scale * ip;
}

/* Squared length between two vectors without codes. */
static float
vectorDistance2(const AnnGraph *graph, const char *a, const char *b)
{
	float		length;

	if (graph->shape.layout.element <= ANN_ELEMENT_HALF)
		length = AnnHnswPairLength(graph->space, (const float *) a, NULL, (const float *) b, NULL);
	else
		length = AnnHnswPairLength(graph->space, NULL, a, NULL, b);
	return length * length;
}

/* ---- search ---- */

/*
 * Marks a node as seen; appends it to graph->touched if it was not before.  There
 * is room.
 */
static inline void
markSeen(AnnGraph *graph, AnnGraphNode node)
{
	uint64	   *word = &graph->seen[node / 64];
	uint64		bit = UINT64CONST(1) << (node % 64);

	graph->touched[graph->ntouched] = node;
	graph->ntouched += (*word & bit) == 0;
	*word |= bit;
}

static void
makeRoomForTouched(AnnGraph *graph, int more)
{
	while (graph->ntouched + more > graph->touched_capacity)
	{
		graph->touched_capacity *= 2;
		graph->touched = repalloc_huge(graph->touched, mul_size(sizeof(AnnGraphNode), graph->touched_capacity));
	}
}

/* Estimates from codes that lie `stride` bytes apart, each behind its factors. */
static void
estimate(const AnnGraph *graph, const char *points, Size stride, int n, float *d2)
{
	AnnCodeArray array = {0};

	array.codes = points + CODE_OFFSET;
	array.code_stride = stride;
	array.factors = points;
	array.factor_stride = stride;
	array.form = ANN_FACTORS_HALF2;
	array.count = n;
	AnnEstimateBatch(graph->query, &array, d2, NULL);
}

/* Distances of the prepared row from nodes. */
static void
distancesTo(AnnGraph *graph, const AnnGraphNode *nodes, int n, float *d2)
{
	switch (formOf(graph))
	{
		case ANN_GRAPH_CODE:
			{
				Size		stride = graph->gather_stride;
				char	   *to = graph->gathered;

				/* What is copied beyond a point is another one, or links. */
				for (int i = 0; i < n; i++, to += stride)
				{
					const char *from = pointOf(graph, nodes[i]);

					for (Size at = 0; at < stride; at += GATHER_STEP)
						memcpy(to + at, from + at, GATHER_STEP);
				}
				estimate(graph, graph->gathered, stride, n, d2);
				break;
			}
		case ANN_GRAPH_INT8:
			for (int i = 0; i < n; i++)
				d2[i] = int8Distance2(graph, graph->point, pointOf(graph, nodes[i]));
			break;
		case ANN_GRAPH_VECTOR:
			for (int i = 0; i < n; i++)
				d2[i] = vectorDistance2(graph, isSparse(graph) ? graph->stored : graph->point,
										vectorOf(graph, nodes[i]));
			break;
	}
}

static inline bool
beamTakes(const AnnGraph *graph, float d2)
{
	return graph->nbeam < graph->shape.ef || d2 < graph->beam_d2[graph->nbeam - 1];
}

/* Puts a node into the beam; returns its place. */
static inline int
addToBeam(AnnGraph *graph, AnnGraphNode node, float d2)
{
	AnnGraphNode *beam = graph->beam;
	float	   *beam_d2 = graph->beam_d2;
	int			n = graph->nbeam;
	int			at = 0;

	if (n == graph->shape.ef)
	{
		n--;
		if ((beam[n] & EXPANDED) && graph->ndropped < graph->shape.ef)
		{
			graph->dropped[graph->ndropped].d2 = beam_d2[n];
			graph->dropped[graph->ndropped++].node = beam[n] & ~EXPANDED;
		}
	}
	/* Its place, without branches: none of them could be predicted. */
	for (int i = BEAM_STEP - 1; i < n; i += BEAM_STEP)
		at += beam_d2[i] <= d2;
	at *= BEAM_STEP;
	for (int i = at, end = Min(at + BEAM_STEP, n); i < end; i++)
		at += beam_d2[i] <= d2;
	memmove(beam_d2 + at + 1, beam_d2 + at, sizeof(float) * (n - at));
	memmove(beam + at + 1, beam + at, sizeof(AnnGraphNode) * (n - at));
	beam_d2[at] = d2;
	beam[at] = node;
	graph->nbeam = n + 1;
	return at;
}

/* Offers nodes to the beam; returns the first place that changed, or `next` if that is before. */
static int
offerToBeam(AnnGraph *graph, const AnnGraphNode *nodes, const float *d2, int n, int next)
{
	bool		full = graph->nbeam >= graph->shape.ef;
	float		limit = full ? graph->beam_d2[graph->nbeam - 1] : 0;
	int		   *near = graph->near;
	int			nnear = 0;

	/* Most are too far.  Which ones cannot be predicted: so without branches. */
	for (int i = 0; i < n; i++)
	{
		near[nnear] = i;
		nnear += !full | (d2[i] < limit);
	}
	for (int i = 0; i < nnear; i++)
		if (beamTakes(graph, d2[near[i]]))
		{
			int			at = addToBeam(graph, nodes[near[i]], d2[near[i]]);

			next = Min(next, at);
		}
	return next;
}

static void
startSearch(AnnGraph *graph)
{
	AnnGraphShared *shared = graph->shared;
	int			n = (int) *(volatile uint32 *) &shared->nentries;
	AnnGraphNear best[START_ENTRIES];
	int			nbest = 0;
	int			first;

	pg_read_barrier();
	if (formOf(graph) == ANN_GRAPH_CODE)
		estimate(graph, graph->entry_points, entryPointSize(&graph->shape), n, graph->estimates);
	else
		distancesTo(graph, graph->entries, n, graph->estimates);
	for (int i = 0; i < n; i++)
	{
		int			at;

		if (nbest == START_ENTRIES && graph->estimates[i] >= best[nbest - 1].d2)
			continue;
		at = nbest < START_ENTRIES ? nbest++ : nbest - 1;
		for (; at > 0 && best[at - 1].d2 > graph->estimates[i]; at--)
			best[at] = best[at - 1];
		best[at].d2 = graph->estimates[i];
		best[at].node = graph->entries[i];
	}

	/* An entry may have been replaced while it was read: ask its node. */
	first = graph->ntouched;
	makeRoomForTouched(graph, nbest + 1);
	for (int i = 0; i < nbest; i++)
		markSeen(graph, best[i].node);
	n = graph->ntouched - first;
	distancesTo(graph, graph->touched + first, n, graph->estimates);
	offerToBeam(graph, graph->touched + first, graph->estimates, n, 0);
}

static int
compareNear(const void *a, const void *b)
{
	const AnnGraphNear *x = (const AnnGraphNear *) a;
	const AnnGraphNear *y = (const AnnGraphNear *) b;

	return x->d2 < y->d2 ? -1 : x->d2 > y->d2 ? 1 : 0;
}

/* Asks for these bytes of a node's links. */
static inline void
prefetchLinks(AnnGraph *graph, AnnGraphNode node, Size size)
{
	const char *links = (const char *) linksOf(graph, node);

	for (Size i = 0; i < size; i += 64)
		__builtin_prefetch(links + i);
	__builtin_prefetch(links + size - 1);
}

/*
 * Takes the best nodes of the beam, from place *next on, that are to be expanded
 * and are not; asks for their links.
 */
static int
chooseExpansions(AnnGraph *graph, int *next, AnnGraphNode *nodes)
{
	int			end = Min(graph->nbeam, graph->shape.expanded);
	int			n = 0;
	int			i;

	for (i = *next; i < end && n < EXPAND_AT_ONCE; i++)
		if (!(graph->beam[i] & EXPANDED))
		{
			nodes[n++] = graph->beam[i];
			prefetchLinks(graph, graph->beam[i], sizeof(AnnGraphNode) * (Size) graph->shape.slots);
			graph->beam[i] |= EXPANDED;
		}
	*next = i;
	return n;
}

/* Appends a node's neighbours that were not seen yet to graph->touched, where there is room. */
static inline void
touchNeighbours(AnnGraph *graph, AnnGraphNode node)
{
	const AnnGraphNode *links = linksOf(graph, node);
	AnnGraphNode *touched = graph->touched;
	uint64	   *seen = graph->seen;
	int			slots = graph->shape.slots;
	int			n = graph->ntouched;

	for (int i = 0; i < slots; i++)
	{
		AnnGraphNode neighbour = *(const volatile AnnGraphNode *) &links[i];
		uint64		word;
		uint64		bit;

		if (neighbour == ANN_GRAPH_NO_NODE)
			break;
		word = seen[neighbour / 64];
		bit = UINT64CONST(1) << (neighbour % 64);
		touched[n] = neighbour;
		n += (word & bit) == 0;
		seen[neighbour / 64] = word | bit;
	}
	graph->ntouched = n;
}

/*
 * Best-first search for the prepared row.  Fills graph->candidates, ascending,
 * with the beam and what was expanded and dropped from it on the way.
 *
 * What is read next is always one step behind what is chosen, so that memory works
 * while it is waited for: the links of the nodes to be expanded arrive while the
 * neighbours of those before are compared, the neighbours while these go into
 * the beam.
 */
static void
searchNearest(AnnGraph *graph, AnnGraphNode self)
{
	AnnGraphNode chosen[EXPAND_AT_ONCE];
	int			nchosen;
	int			first;			/* nodes seen, but not compared yet: from here */
	int			nfresh = 0;
	int			next = 0;
	int			n = 0;

	clearSeen(graph);
	markSeen(graph, self);
	graph->nbeam = 0;
	graph->ndropped = 0;
	startSearch(graph);
	first = graph->ntouched;
	nchosen = chooseExpansions(graph, &next, chosen);
	while (nchosen > 0 || nfresh > 0)
	{
		int			ncompared = nfresh;

		if (ncompared > 0)
			distancesTo(graph, graph->touched + first, ncompared, graph->estimates);
		makeRoomForTouched(graph, EXPAND_AT_ONCE * graph->shape.slots + 1);
		for (int i = 0; i < nchosen; i++)
			touchNeighbours(graph, chosen[i]);
		pg_read_barrier();
		nfresh = graph->ntouched - first - ncompared;
		for (int i = 0; i < nfresh; i++)
			prefetchPoint(graph, graph->touched[first + ncompared + i]);
		next = offerToBeam(graph, graph->touched + first, graph->estimates, ncompared, next);
		first += ncompared;
		nchosen = chooseExpansions(graph, &next, chosen);
	}

	for (int i = 0; i < graph->nbeam; i++)
	{
		graph->candidates[n].d2 = graph->beam_d2[i];
		graph->candidates[n++].node = graph->beam[i] & ~EXPANDED;
	}
	qsort(graph->dropped, graph->ndropped, sizeof(AnnGraphNear), compareNear);
	for (int i = 0; i < graph->ndropped; i++)
		graph->candidates[n++] = graph->dropped[i];
	graph->ncandidates = n;
}

/* ---- choice of edges ---- */

static inline void
loadProbe(AnnGraph *graph, Probe *probe, const char *point)
{
	probe->data = point;
	probe->norm = 0;
	if (formOf(graph) == ANN_GRAPH_CODE)
	{
		AnnHalf		norm;

		memcpy(&norm, point, sizeof(norm));
		probe->norm = AnnHalfToFloat(norm) * graph->norm_scale;
		probe->data += CODE_OFFSET;
	}
}

static inline void
loadNodeProbe(AnnGraph *graph, Probe *probe, AnnGraphNode node)
{
	loadProbe(graph, probe, formOf(graph) == ANN_GRAPH_VECTOR ? vectorOf(graph, node) : pointOf(graph, node));
}

/* Squared distance of two nodes. */
static inline float
probeDistance2(const AnnGraph *graph, const Probe *a, const Probe *b)
{
	switch (formOf(graph))
	{
		case ANN_GRAPH_CODE:
			{
				/* As AnnCodeProbeDistance2, with the cosine of the angle (README of quantize) from a table. */
				uint64		differ = ann_kernels.hamming((const uint8_t *) a->data, (const uint8_t *) b->data,
														 graph->shape.code.nbits / 8);
				float		difference = a->norm - b->norm;

				return difference * difference + 2 * a->norm * b->norm * graph->versine[differ];
			}
		case ANN_GRAPH_INT8:
			return int8Distance2(graph, a->data, b->data);
		default:
			return vectorDistance2(graph, a->data, b->data);
	}
}

/*
 * The relative neighbourhood rule over the candidates, ascending: one is
 * occluded if a kept one is nearer to it than its length allows.  Fills
 * graph->chosen, ascending, with what is kept and, while there are slots, the
 * nearest occluded ones; graph->occluded tells which.
 */
static int
chooseEdges(AnnGraph *graph)
{
	int			n = graph->ncandidates;
	float		alpha = graph->shared->alpha;
	int			slots = graph->shape.slots;
	int			nkept = 0;
	int			kept[256];
	int			nchosen = 0;

	for (int i = 0; i < n; i++)
		loadNodeProbe(graph, &graph->probes[i], graph->candidates[i].node);
	for (int i = 0; i < n; i++)
	{
		graph->occluded[i] = nkept >= slots;
		for (int j = 0; j < nkept && !graph->occluded[i]; j++)
			graph->occluded[i] = AnnHnswOccludes2(alpha, probeDistance2(graph, &graph->probes[kept[j]], &graph->probes[i]),
												 graph->candidates[i].d2);
		if (!graph->occluded[i])
			kept[nkept++] = i;
	}
	slots -= nkept;
	for (int i = 0; i < n; i++)
		if (!graph->occluded[i] || slots-- > 0)
			graph->chosen[nchosen++] = i;
	return nchosen;
}

/*
 * Samples how many candidates each alpha would keep, and moves alpha towards the
 * one that fills the wanted share of the slots.
 */
static void
tuneAlpha(AnnGraph *graph)
{
	int			n = Min(graph->ncandidates, ALPHA_CANDIDATES);
	AnnGraphShared *shared = graph->shared;
	float		wanted = ANN_HNSW_ALPHA_KEEPS * graph->shape.slots;
	float		rate;
	int			a;

	for (int i = 1; i < n; i++)
		for (int j = 0; j < i; j++)
			graph->pairs[i * n + j] = probeDistance2(graph, &graph->probes[i], &graph->probes[j]);

	LWLockAcquire(&shared->alpha_lock, LW_EXCLUSIVE);
	rate = 1.0f / Min(shared->alpha_samples + 1, ALPHA_MEMORY);
	shared->alpha_samples++;
	for (a = 0; a < ANN_GRAPH_ALPHAS; a++)
	{
		int			nkept = 0;

		for (int i = 0; i < n; i++)
		{
			bool		occluded = false;

			for (int j = 0; j < i && !occluded; j++)
				occluded = !graph->occluded[j] &&
					AnnHnswOccludes2(alphas[a], graph->pairs[i * n + j], graph->candidates[i].d2);
			graph->occluded[i] = occluded;
			nkept += !occluded;
		}
		shared->kept[a] += (nkept - shared->kept[a]) * rate;
	}
	for (a = 0; a < ANN_GRAPH_ALPHAS - 1 && shared->kept[a] < wanted; a++)
		;
	if (a == 0 || shared->kept[a] < wanted)
		shared->alpha = alphas[a];
	else
		shared->alpha = alphas[a - 1] + (alphas[a] - alphas[a - 1]) *
			(wanted - shared->kept[a - 1]) / Max(shared->kept[a] - shared->kept[a - 1], 1e-6f);
	LWLockRelease(&shared->alpha_lock);
}

/* ---- edges ---- */

static inline AnnHalf
packLength(const AnnGraph *graph, float d2, bool occluded)
{
	AnnHalf		half = AnnFloatToHalf(sqrtf(Max(d2, 0.0f)) / graph->length_scale);

	/* A length out of range is the longest. */
	if (half >= 0x7C00)
		half = 0x7BFF;
	return (half & ~ANN_HNSW_KEEPER) | (occluded ? OCCLUDED : 0);
}

/* The length of an edge between two nodes, as lists of edges have it. */
AnnHalf
AnnGraphLength(AnnGraph *graph, AnnGraphNode a, AnnGraphNode b)
{
	Probe		from;
	Probe		to;

	loadNodeProbe(graph, &from, a);
	loadNodeProbe(graph, &to, b);
	return packLength(graph, probeDistance2(graph, &from, &to), false);
}

/*
 * Adds an edge from `from` to the prepared row, which is graph->own_probe.  The
 * rule of hnsw_prune.c, with the occlusions of older edges remembered:
 * of the edges and the new one the furthest occluded is dropped when there is no
 * slot; if none is, the furthest.
 */
static void
addBackLink(AnnGraph *graph, AnnGraphNode from, AnnGraphNode node, float d2)
{
	float		alpha = graph->shared->alpha;
	AnnGraphNode *links = linksOf(graph, from);
	AnnHalf    *lengths = lengthsOf(graph, links);
	AnnHalf		length = packLength(graph, d2, false);
	LWLock	   *lock = &graph->shared->node_locks[from % ANN_GRAPH_NODE_LOCKS];
	Probe		probe;
	int			count;
	int			at;
	int			victim;
	bool		occluded = false;

	if (graph->parallel)
		LWLockAcquire(lock, LW_EXCLUSIVE);
	count = countLinks(graph, links);
	at = placeOfLink(lengths, count, length);

	for (int i = 0; i < at && !occluded; i++)
		if (!(lengths[i] & OCCLUDED))
		{
			loadNodeProbe(graph, &probe, links[i]);
			occluded = AnnHnswOccludes2(alpha, probeDistance2(graph, &graph->own_probe, &probe), d2);
		}
	if (!occluded)
		for (int i = at; i < count; i++)
			if (!(lengths[i] & OCCLUDED))
			{
				float		l = lengthOf(graph, lengths[i]);

				loadNodeProbe(graph, &probe, links[i]);
				if (AnnHnswOccludes(alpha, probeDistance2(graph, &graph->own_probe, &probe), l))
					lengths[i] |= OCCLUDED;
			}

	if (count == graph->shape.slots)
	{
		for (victim = count - 1; victim >= 0 && !(lengths[victim] & OCCLUDED); victim--)
			;
		/* Of equal ones any may go. */
		if (occluded && victim >= 0 && lengths[victim] == (length | OCCLUDED) && pg_prng_bool(&graph->random))
		{
			int			equals = 0;

			for (int i = 0; i < count; i++)
				if (lengths[i] == (length | OCCLUDED) && pg_prng_uint64_range(&graph->random, 0, equals++) == 0)
					victim = i;
			at = victim;
		}
		if ((occluded && victim < at) || (victim < 0 && at == count))
			victim = count;		/* the new one itself */
		else if (victim < 0)
			victim = count - 1;
		if (victim < count)
		{
			removeLink(graph, links, count, victim);
			count--;
			if (victim < at)
				at--;
		}
	}
	if (count < graph->shape.slots)
		insertLink(graph, links, count, at, node, length | (occluded ? OCCLUDED : 0));
	if (graph->parallel)
		LWLockRelease(lock);
}

/* Makes the prepared row, which is `node`, one of the entries if the sample wants it. */
static void
offerEntry(AnnGraph *graph, AnnGraphNode node)
{
	AnnGraphShared *shared = graph->shared;
	uint32		at;

	if (node >= shared->max_entries &&
		pg_prng_uint64_range(&graph->random, 0, node) >= shared->max_entries)
		return;
	LWLockAcquire(&shared->entry_lock, LW_EXCLUSIVE);
	at = shared->nentries < shared->max_entries ? shared->nentries :
		(uint32) pg_prng_uint64_range(&graph->random, 0, shared->max_entries - 1);
	memcpy(graph->entry_points + at * entryPointSize(&graph->shape), graph->point, entryPointSize(&graph->shape));
	graph->entries[at] = node;
	pg_write_barrier();
	if (at == shared->nentries)
		shared->nentries++;
	LWLockRelease(&shared->entry_lock);
}

/*
 * Finds the neighbours of the prepared row, which is `node`, and makes the edges
 * in both directions.
 */
void
AnnGraphConnect(AnnGraph *graph, AnnGraphNode node)
{
	AnnGraphNode *links = linksOf(graph, node);
	AnnHalf    *lengths = lengthsOf(graph, links);
	Size		links_bytes = (sizeof(AnnGraphNode) + sizeof(AnnHalf)) * (Size) graph->shape.slots;
	int			nchosen;

	searchNearest(graph, node);
	nchosen = chooseEdges(graph);
	for (int i = 0; i < nchosen; i++)
	{
		int			c = graph->chosen[i];

		links[i] = graph->candidates[c].node;
		lengths[i] = packLength(graph, graph->candidates[c].d2, graph->occluded[c]);
	}
	if (node >= ALPHA_MIN_NODES && graph->connected++ % ALPHA_SAMPLE_EVERY == 0)
		tuneAlpha(graph);
	pg_write_barrier();

	loadProbe(graph, &graph->own_probe, isSparse(graph) ? graph->stored : graph->point);
	for (int i = 0; i < nchosen; i++)
	{
		if (i + BACK_LINKS_AHEAD < nchosen)
			prefetchLinks(graph, graph->candidates[graph->chosen[i + BACK_LINKS_AHEAD]].node, links_bytes);
		addBackLink(graph, graph->candidates[graph->chosen[i]].node, node, graph->candidates[graph->chosen[i]].d2);
	}
	offerEntry(graph, node);
}
