# ann: vector search for PostgreSQL.  `make demo` and `make test` set up everything they need by themselves.

EXTENSION = ann
MODULE_big = ann
DATA = sql/ann--1.0.sql

# Distance kernels: one object for each instruction set of the CPU family that the compiler builds for.
CPU_FAMILY := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)))
KERNEL_SETS_x86_64 = sse2 avx2 avx512
KERNEL_SETS_aarch64 = neon
KERNEL_SETS_arm64 = neon
KERNEL_SETS = scalar $(KERNEL_SETS_$(CPU_FAMILY))
KERNEL_FLAGS_avx2 = -mavx2 -mfma -mf16c
KERNEL_FLAGS_avx512 = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vnni -mavx512vpopcntdq
# The rounding steps are those that the sources spell out.  GCC's coalescing of variables copies accumulators around
# in loops (code_ip_batch takes 40 % longer); clang has no such option.
KERNEL_FLAGS = -ffp-contract=off $(shell $(CC) -Werror -fno-tree-coalesce-vars -E -x c /dev/null >/dev/null 2>&1 && \
	echo -fno-tree-coalesce-vars)

# Listed by hand: wildcards come up empty in VPATH builds.
OBJS = \
	src/ann.o \
	src/distance/dispatch.o \
	$(KERNEL_SETS:%=src/distance/%.o) \
	src/hnsw/hnsw_build.o \
	src/hnsw/hnsw_calibrate.o \
	src/hnsw/hnsw_chain.o \
	src/hnsw/hnsw_center.o \
	src/hnsw/hnsw_check.o \
	src/hnsw/hnsw_connect.o \
	src/hnsw/hnsw_graph.o \
	src/hnsw/hnsw_graph_finish.o \
	src/hnsw/hnsw_handler.o \
	src/hnsw/hnsw_insert.o \
	src/hnsw/hnsw_keepers.o \
	src/hnsw/hnsw_options.o \
	src/hnsw/hnsw_orphans.o \
	src/hnsw/hnsw_page.o \
	src/hnsw/hnsw_partition.o \
	src/hnsw/hnsw_prune.o \
	src/hnsw/hnsw_repair.o \
	src/hnsw/hnsw_scan.o \
	src/hnsw/hnsw_search.o \
	src/hnsw/hnsw_space.o \
	src/hnsw/hnsw_vacuum.o \
	src/ivfflat/ivfflat_build.o \
	src/ivfflat/ivfflat_cache.o \
	src/ivfflat/ivfflat_calibrate.o \
	src/ivfflat/ivfflat_centroid.o \
	src/ivfflat/ivfflat_check.o \
	src/ivfflat/ivfflat_handler.o \
	src/ivfflat/ivfflat_insert.o \
	src/ivfflat/ivfflat_kmeans.o \
	src/ivfflat/ivfflat_lists.o \
	src/ivfflat/ivfflat_options.o \
	src/ivfflat/ivfflat_page.o \
	src/ivfflat/ivfflat_pending.o \
	src/ivfflat/ivfflat_reach.o \
	src/ivfflat/ivfflat_relist.o \
	src/ivfflat/ivfflat_runs.o \
	src/ivfflat/ivfflat_scan.o \
	src/ivfflat/ivfflat_train.o \
	src/ivfflat/ivfflat_vacuum.o \
	src/ivfflat/ivfflat_value.o \
	src/page/cache.o \
	src/page/hints.o \
	src/page/page.o \
	src/planner/annscan_include.o \
	src/planner/annscan_cost.o \
	src/planner/annscan_exec.o \
	src/planner/annscan_explain.o \
	src/planner/annscan_filter.o \
	src/planner/annscan_heap.o \
	src/planner/annscan_match.o \
	src/planner/annscan_order.o \
	src/planner/annscan_path.o \
	src/planner/annscan_plan.o \
	src/planner/annscan_range.o \
	src/planner/formats.o \
	src/planner/support.o \
	src/planner/workers.o \
	src/quantize/code.o \
	src/quantize/nearest.o \
	src/quantize/probe.o \
	src/quantize/query.o \
	src/quantize/refine.o \
	src/quantize/rotate.o \
	src/space/attributes.o \
	src/space/cost.o \
	src/space/opclass.o \
	src/space/options.o \
	src/space/scan.o \
	src/space/space.o \
	src/space/tidset.o \
	src/tools/check.o \
	src/tools/recall.o \
	src/types/agg.o \
	src/types/bit.o \
	src/types/detoast.o \
	src/types/halfvec.o \
	src/types/shared.o \
	src/types/sparsevec_cast.o \
	src/types/sparsevec_io.o \
	src/types/sparsevec_ops.o \
	src/types/vector.o

# Handed on to the scripts only when somebody chose it: they find or install a server by themselves.
ifneq ($(filter command environment,$(origin PG_CONFIG)),)
CHOSEN = PG_CONFIG='$(PG_CONFIG)'
endif
PG_CONFIG ?= pg_config

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
# Header dependencies: PGXS tracks none.
PG_CFLAGS += -MMD -MP
# The server loads libraries with RTLD_GLOBAL: our own symbols come first even with another vector library loaded.
SHLIB_LINK += -Wl,-Bsymbolic

REGRESS = $(patsubst $(srcdir)/sql/%.sql,%,$(filter-out $(srcdir)/sql/ann--%.sql,$(sort $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OPTS = --inputdir=$(srcdir) --load-extension=ann

# Per-object instruction-set flags do not reach PGXS's second compilation to LLVM bitcode.
override with_llvm := no

EXTRA_CLEAN = $(OBJS:.o=.d)

.DEFAULT_GOAL := all

PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq ($(PGXS),)
include $(PGXS)

# A VPATH build starts in an empty folder, and must not take objects from the source tree for its own.
ifdef VPATH
$(shell mkdir -p $(sort $(dir $(OBJS))))
srcdir := $(VPATH)
override VPATH =
vpath %.c $(srcdir)
vpath %.control $(srcdir)
vpath %.sql $(srcdir)
endif

src/distance/%.o: CFLAGS += $(KERNEL_FLAGS)
# Square roots and divisions are vectorized only where nobody asks for errno or traps.
QUANTIZE_FLAGS = -O3 -fno-math-errno -fno-trapping-math
src/quantize/%.o: CFLAGS += $(QUANTIZE_FLAGS) $(KERNEL_FLAGS)
src/distance/avx2.o: CFLAGS += $(KERNEL_FLAGS_avx2)
src/distance/avx512.o: CFLAGS += $(KERNEL_FLAGS_avx512)
# Loops over elements: at -O2 gcc 12 vectorizes only those of known length.
src/types/vector.o src/types/halfvec.o src/types/agg.o src/hnsw/hnsw_connect.o src/hnsw/hnsw_graph.o src/ivfflat/ivfflat_centroid.o src/ivfflat/ivfflat_kmeans.o \
	src/ivfflat/ivfflat_lists.o src/ivfflat/ivfflat_pending.o src/ivfflat/ivfflat_train.o src/ivfflat/ivfflat_value.o: CFLAGS += -O3

-include $(OBJS:.o=.d)

.PHONY: objects
objects: $(OBJS)
else
all install installcheck:
	@echo "ann: $(PG_CONFIG) knows no PostgreSQL server to build for."
	@echo "Run 'make demo' or 'make test', which install what is missing, or install your server's"
	@echo "development package (Debian: postgresql-server-dev-NN), or give PG_CONFIG=/path/to/pg_config."
	@exit 1
clean:
	rm -f $(OBJS) $(OBJS:.o=.d) ann.so
.PHONY: all install installcheck clean
endif

# The rest needs nothing but make and bash: the scripts install what they use.
comma := ,
top := $(patsubst %/,%,$(dir $(abspath $(firstword $(MAKEFILE_LIST)))))

.PHONY: help deb demo test test-fresh test-versions test-asan fuzz bench bench-planner bench-calibrate bench-exact check-kernels bench-kernels check-quantize bench-quantize

help:
	@echo "make demo            semantic search over the PostgreSQL manual (QUESTION='...', KEEP=1)"
	@echo "make test            build, install, run every test, print the counts"
	@echo "make test-asan       types and kernels under AddressSanitizer and UBSan"
	@echo "make check-kernels   the distance kernels of this CPU against exact references (SANITIZE=1)"
	@echo "make check-quantize  rotation, codes and refine forms against their definitions (SANITIZE=1)"
	@echo "make bench-kernels   ns per call and GB/s of the distance kernels"
	@echo "make bench-quantize  speed of the quantizer, error of its estimates (VECTORS=file.npy)"
	@echo "make test-fresh      make test in a fresh minimal Debian (SUITE=bookworm; needs root)"
	@echo "make test-versions   make test on PostgreSQL 16 (noble), 17 (trixie) and 18 (sid), the same way"
	@echo "make deb             the Debian packages, in build/deb"
	@echo "make fuzz            long fuzz run of the input functions (FUZZ_SECONDS=600)"
	@echo "make bench           compare with pgvector, hnswlib and faiss (DATASET=... WHAT=... and more: test/bench/README)"
	@echo "make bench-planner   time of the plans that are chosen over that of the best (GRID=quick|full|large TABLES=... KS=... SHARES=... BUDGET=...)"
	@echo "make bench-calibrate what the planner's constants come from"
	@echo "make bench-exact     the same for exact search, over dimensions and storage"
	@echo "make, make install, make installcheck: as with every PGXS extension (PG_CONFIG=...)"

demo:
	@$(CHOSEN) QUESTION='$(subst ','\'',$(value QUESTION))' KEEP='$(KEEP)' $(top)/test/demo/run
RUN_test = run
RUN_fuzz = fuzz/run
test test-asan fuzz test-versions test-fresh deb:
	@$(CHOSEN) $(top)/test/$(or $(RUN_$@),$@)
bench:
	@$(CHOSEN) DATASET='$(DATASET)' WHAT='$(WHAT)' PARTS='$(PARTS)' ROWS='$(ROWS)' STORAGE='$(STORAGE)' LISTS='$(LISTS)' \
		PROCESSES='$(PROCESSES)' CLIENTS='$(CLIENTS)' CONTENDERS='$(CONTENDERS)' SHARED_BUFFERS='$(SHARED_BUFFERS)' \
		$(top)/test/bench/run
bench-planner:
	@$(CHOSEN) GRID='$(GRID)' TABLES='$(TABLES)' KS='$(KS)' SHARES='$(SHARES)' BUDGET='$(BUDGET)' $(top)/test/bench/run planner
bench-calibrate:
	@$(CHOSEN) $(top)/test/bench/run calibrate
bench-exact:
	@$(CHOSEN) DATASET='$(or $(DATASET),random384$(comma)random768$(comma)random1536)' WHAT=exact ROWS='$(ROWS)' \
		STORAGE='$(or $(STORAGE),inline$(comma)toast)' $(top)/test/bench/run

# The kernels need no server: stand-alone programs, with objects of their own.
# On x86-64 the test runs the ARM kernels too, which SIMDe emulates, if it is 0.7.4 or later.
KERNEL_BUILD = $(top)/build/kernels$(if $(SANITIZE),-sanitize)
KERNEL_CFLAGS = -O2 -g -fno-strict-aliasing -fno-omit-frame-pointer -Wall -Wextra -Wno-sign-compare \
	-Wno-missing-field-initializers -MMD -MP \
	-I$(top)/src $(KERNEL_FLAGS) $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined)
KERNEL_OBJS = $(patsubst %,$(KERNEL_BUILD)/%.o,dispatch $(KERNEL_SETS))
KERNEL_TEST_OBJS = $(KERNEL_BUILD)/test.o $(KERNEL_OBJS) $(if $(EMULATED_NEON),$(KERNEL_BUILD)/neon.o)
EMULATED_NEON := $(if $(filter x86_64,$(CPU_FAMILY)),$(shell \
	$(CC) -E -include simde/arm/neon/fma.h -x c /dev/null >/dev/null 2>&1 && echo -DEMULATED_NEON))

$(KERNEL_BUILD):
	mkdir -p $@
$(KERNEL_BUILD)/%.o: $(top)/src/distance/%.c | $(KERNEL_BUILD)
	$(CC) $(KERNEL_CFLAGS) $(KERNEL_FLAGS_$*) -c -o $@ $<
$(KERNEL_BUILD)/test.o: $(top)/test/kernels/kernels.c | $(KERNEL_BUILD)
	$(CC) $(KERNEL_CFLAGS) $(EMULATED_NEON) -c -o $@ $<
$(KERNEL_BUILD)/bench.o: $(top)/test/bench/kernels.c | $(KERNEL_BUILD)
	$(CC) $(KERNEL_CFLAGS) -c -o $@ $<
$(KERNEL_BUILD)/test: $(KERNEL_TEST_OBJS)
	$(CC) $(KERNEL_CFLAGS) -o $@ $^ -lm
$(KERNEL_BUILD)/bench: $(KERNEL_BUILD)/bench.o $(KERNEL_OBJS)
	$(CC) $(KERNEL_CFLAGS) -o $@ $^ -lm
-include $(wildcard $(KERNEL_BUILD)/*.d)

# KERNEL_RUN: an emulator to run the program with, when cross-compiling.
check-kernels: $(KERNEL_BUILD)/test
	$(KERNEL_RUN) $<
bench-kernels: $(KERNEL_BUILD)/bench
	$(KERNEL_RUN) $<

# Likewise the quantizer, on top of the kernels' objects.
QUANTIZE_CFLAGS = $(subst -O2,$(QUANTIZE_FLAGS),$(KERNEL_CFLAGS))
QUANTIZE_OBJS = $(patsubst %,$(KERNEL_BUILD)/quantize_%.o,code nearest probe query refine rotate)

$(KERNEL_BUILD)/quantize_test.o: $(top)/test/quantize/quantize.c | $(KERNEL_BUILD)
	$(CC) $(KERNEL_CFLAGS) -c -o $@ $<
$(KERNEL_BUILD)/quantize_bench.o: $(top)/test/bench/quantize.c | $(KERNEL_BUILD)
	$(CC) $(KERNEL_CFLAGS) -c -o $@ $<
$(KERNEL_BUILD)/quantize_%.o: $(top)/src/quantize/%.c | $(KERNEL_BUILD)
	$(CC) $(QUANTIZE_CFLAGS) -c -o $@ $<
$(KERNEL_BUILD)/quantize_test $(KERNEL_BUILD)/quantize_bench: %: %.o $(QUANTIZE_OBJS) $(KERNEL_OBJS)
	$(CC) $(KERNEL_CFLAGS) -o $@ $^ -lm
-include $(wildcard $(KERNEL_BUILD)/quantize_*.d)

check-quantize: $(KERNEL_BUILD)/quantize_test
	$(KERNEL_RUN) $<
bench-quantize: $(KERNEL_BUILD)/quantize_bench
	$(KERNEL_RUN) $< $(VECTORS)
