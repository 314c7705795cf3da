/* Garbage collection on a real store against a model of it (support/gc_model.h): pulls, deletes,
 * records, leases, containers, pins, reads, unfinished ingests, restarts and clocks that jump, in
 * random order, and passes in between, each of which must do exactly what the model says.
 *
 * CAIRN_MODEL_OPS is the number of operations, CAIRN_SEED what they are made from; the same two
 * give the same operations. */
#include "base/log.h"
#include "support/gc_world.h"

#define OPS 150000 /* some 15 s under ASan on two cores that others use, too; 40 s under TSan */

/* ---- containerd's moves ---- */

static void write_all(struct world *w, struct cairn_ingest *ing, const struct content *c)
{
	size_t half = below(w, 2) == 0 ? c->n : c->n / 2;
	assert_ok(put(ing, 0, c->data, half, &err));
	if (half < c->n) assert_ok(put(ing, half, c->data + half, c->n - half, &err));
	assert_true(cairn_ingest_is_published(ing));
}

static void pull_blob(struct world *w, int at)
{
	struct m_blob *b = &w->m.blobs[at];
	struct cairn_ingest_status st;
	b->used = tick(w);
	struct cairn_ingest *ing = open_ref(&w->s, "pull", &b->c, true, true);
	assert_int_equal(status_of(ing).offset, b->here ? b->c.n : 0);
	w->prefilled += b->here && !b->refd;
	if (!b->here) write_all(w, ing, &b->c);
	assert_code(cairn_ingest_commit(ing, b->c.n, b->c.n, &b->c.digest, &st, &err),
		    b->refd ? CAIRN_ALREADY_EXISTS : CAIRN_OK);
	cairn_ingest_close(ing);
	b->here = b->refd = b->known = true;
}

/* Of an index one manifest or more, as nodes of one platform do it. */
static void pull(struct world *w, int root)
{
	const struct m_blob *b = &w->m.blobs[root];
	pull_blob(w, root);
	bool whole = b->kind != M_INDEX || below(w, 2) == 0;
	for (int i = 0; i < b->n; i++) {
		const struct m_blob *child = &w->m.blobs[b->children[i]];
		if (!whole && i > 0) break;
		if (child->n > 0) {
			pull(w, b->children[i]);
		} else {
			pull_blob(w, b->children[i]);
		}
	}
}

/* A whole blob that containerd never had. */
static void fill_blob(struct world *w)
{
	struct m_blob *b = &w->m.blobs[below(w, M_BLOBS)];
	if (b->here) return;
	b->used = tick(w);
	struct cairn_ingest *ing = open_ref(&w->s, "fill", &b->c, true, false);
	write_all(w, ing, &b->c);
	cairn_ingest_close(ing);
	cairn_cache_abort(w->s.cache, "fill");
	b->here = true;
	b->refd = b->known = false;
}

static void release_one(struct world *w, int at)
{
	if (w->m.blobs[at].refd) w->m.blobs[at].used = tick(w);
	cairn_cache_release(w->s.cache, &w->m.blobs[at].c.digest);
	w->m.blobs[at].refd = false;
}

/* containerd's garbage collection, which knows images and leases. */
static void release_unrecorded(struct world *w)
{
	struct m_set used = {0};
	const struct m_claims *c = &w->m.now;
	for (int i = 0; i < M_RECORDS; i++) {
		if (c->images[i].name >= 0) reach(&w->m, c->images[i].root, false, &used);
	}
	for (int i = 0; i < M_SLOTS; i++) {
		for (int k = 0; c->leases[i].on && k < c->leases[i].n; k++) {
			reach(&w->m, c->leases[i].content[k], false, &used);
		}
	}
	for (int i = 0; i < M_BLOBS; i++) {
		if (!used.in[i]) release_one(w, i);
	}
}

static void release(struct world *w)
{
	unsigned how = below(w, 10);
	struct m_set set = {0};
	if (how < 5) {
		release_unrecorded(w);
	} else if (how < 9) { /* whoever claims it: the claims alone must save it */
		reach(&w->m, random_root(w), true, &set);
		for (int i = 0; i < M_BLOBS; i++) {
			if (set.in[i]) release_one(w, i);
		}
	} else {
		release_one(w, (int)below(w, M_BLOBS));
	}
}

static void change_image(struct world *w)
{
	struct m_image *image = &w->m.now.images[below(w, M_RECORDS)];
	if (image->name >= 0 && below(w, 2) == 0) {
		image->name = -1;
		return;
	}
	*image = (struct m_image){(int)below(w, 2), (int)below(w, M_NAMES), random_root(w)};
	if (image->name >= M_MOVING) image->root = w->m.name_root[image->name];
	if (below(w, 3) > 0) pull(w, image->root);
}

static void change_lease(struct world *w)
{
	struct m_lease *l = &w->m.now.leases[below(w, M_SLOTS)];
	l->on = !l->on;
	l->flat = below(w, 2) == 0;
	l->expires_real = 0;
	if (below(w, 2) == 0) l->expires_real = w->s.clock.real_ns + between(w, -HOUR, 20 * HOUR);
	l->n = (int)below(w, 5);
	for (int i = 0; i < l->n; i++) {
		l->content[i] = below(w, 2) == 0 ? random_root(w) : (int)below(w, M_BLOBS);
	}
}

static void change_container(struct world *w)
{
	struct m_container *c = &w->m.now.containers[below(w, M_SLOTS)];
	c->on = !c->on;
	c->name = (int)below(w, M_NAMES);
	c->created_real = w->s.clock.real_ns;
	if (below(w, 2) == 0) c->created_real -= between(w, 0, 200 * HOUR);
}

/* ---- cairn's own ---- */

static void look_at_images(struct world *w)
{
	for (int i = 0; i < M_RECORDS; i++) {
		const struct m_image *image = &w->m.now.images[i];
		if (image->name < 0) continue;
		tick(w);
		see(&w->s, w->m.names[image->name], &w->m.blobs[image->root].c.digest);
		model_see(&w->m, image->name, image->root, now(w), w->s.clock.real_ns);
	}
}

static void change_pin(struct world *w)
{
	struct m_pin *pin = &w->m.pins[below(w, M_SLOTS)];
	char text[CAIRN_DIGEST_STR];
	bool was, alive = pin->on && (pin->until == 0 || pin->until > now(w));
	if (pin->on) {
		const char *target = w->m.names[pin->name < 0 ? 0 : pin->name];
		if (pin->blob >= 0) {
			target = cairn_digest_format(&w->m.blobs[pin->blob].c.digest, text);
		}
		assert_ok(cairn_cache_unpin(w->s.cache, target, &was, &err));
		if (alive) assert_true(was);
		pin->on = false;
		return;
	}
	struct m_pin new = {true, -1, -1, 0};
	int64_t for_ns = below(w, 2) == 0 ? 0 : between(w, 1, 50 * HOUR);
	if (below(w, 2) == 0) {
		new.blob = below(w, 2) == 0 ? random_root(w) : (int)below(w, M_BLOBS);
		cairn_digest_format(&w->m.blobs[new.blob].c.digest, text);
	} else {
		new.name = (int)below(w, M_MOVING);
	}
	for (int i = 0; i < M_SLOTS; i++) { /* of one target there is one pin */
		const struct m_pin *p = &w->m.pins[i];
		if (p->on && p->blob == new.blob && p->name == new.name) return;
	}
	assert_ok(cairn_cache_pin(w->s.cache, new.blob >= 0 ? text : w->m.names[new.name], for_ns,
				  &err));
	if (for_ns > 0) new.until = now(w) + for_ns;
	*pin = new;
}

/* ---- readers and ingests ---- */

static void end_reader(struct world *w, struct reader *r, bool all)
{
	struct m_blob *b = &w->m.blobs[r->of];
	if (r->blob != NULL) {
		b->used = tick(w);
		cairn_blob_close(r->blob);
		r->blob = NULL;
		if (!all) return; /* the view outlives it */
	}
	cairn_view_release(&r->view);
	b->busy--;
	r->of = -1;
}

static void read_blob(struct world *w)
{
	struct reader *r = &w->readers[below(w, M_SLOTS)];
	if (r->of >= 0) {
		end_reader(w, r, below(w, 2) == 0);
		return;
	}
	int of = (int)below(w, M_BLOBS);
	struct m_blob *b = &w->m.blobs[of];
	tick(w);
	enum cairn_code rc = cairn_blob_open(w->s.cache, &b->c.digest, &r->blob, &err);
	assert_int_equal(rc, b->here ? CAIRN_OK : CAIRN_NOT_FOUND);
	if (rc) return;
	uint64_t at = below(w, (unsigned)b->c.n);
	assert_int_equal(cairn_blob_view(r->blob, at, b->c.n - at, true, &r->view, &err),
			 CAIRN_VIEW_OK);
	assert_memory_equal(r->view.data, b->c.data + at, r->view.len);
	r->of = of;
	b->used = now(w);
	b->busy++;
}

static void close_session(struct world *w, int slot)
{
	struct m_ingest *ing = &w->m.ingests[slot];
	if (!ing->open) return;
	tick(w);
	cairn_ingest_close(w->sessions[slot]);
	ing->open = false;
	ing->touched_boot = w->s.clock.boot_ns;
	if (ing->prefilled) w->m.blobs[ing->blob].busy--;
}

static void abort_ingest(struct world *w, int slot)
{
	char ref[32];
	snprintf(ref, sizeof(ref), "slot-%d", slot);
	close_session(w, slot);
	cairn_cache_abort(w->s.cache, ref);
	w->m.ingests[slot].on = false;
}

static void ingest(struct world *w)
{
	int slot = (int)below(w, M_SLOTS), of = (int)below(w, M_BLOBS);
	struct m_ingest *ing = &w->m.ingests[slot];
	struct m_blob *b = &w->m.blobs[of];
	char ref[32];
	snprintf(ref, sizeof(ref), "slot-%d", slot);
	if (ing->open) {
		close_session(w, slot);
	} else if (ing->on && below(w, 2) == 0) {
		abort_ingest(w, slot);
	} else if (!ing->on) {
		tick(w);
		w->sessions[slot] = open_ref(&w->s, ref, &b->c, true, true);
		*ing = (struct m_ingest){true, true, b->here, of, 0, w->s.clock.boot_ns};
		if (b->here) {
			b->busy++;
			b->used = now(w);
			return;
		}
		ing->offset = below(w, (unsigned)b->c.n);
		assert_ok(put(w->sessions[slot], 0, b->c.data, ing->offset, &err));
	}
}

/* ---- time ---- */

static void change_clock(struct world *w)
{
	unsigned how = below(w, 4);
	if (how == 0) {
		w->s.clock.real_ns += between(w, -40 * HOUR, 40 * HOUR);
	} else if (how == 1) {
		clock_move(&w->s, between(w, 0, 30 * HOUR));
	} else {
		clock_move(&w->s, between(w, 0, HOUR));
	}
}

/* The node is off for a while, and may have booted since: none of that ages anything. */
static void restart(struct world *w)
{
	for (int i = 0; i < M_SLOTS; i++) {
		if (w->readers[i].of >= 0) end_reader(w, &w->readers[i], true);
		close_session(w, i);
		if (w->m.ingests[i].prefilled) abort_ingest(w, i);
	}
	int64_t at = now(w);
	store_close(&w->s);
	w->s.clock.real_ns += between(w, -HOUR, 100 * HOUR);
	if (below(w, 2) == 0) w->s.clock.boot_ns = between(w, SECOND, 1000 * HOUR);
	store_open(&w->s);
	w->offset_ns = at - w->s.clock.boot_ns;
	for (int i = 0; i < M_SLOTS; i++) w->m.ingests[i].touched_boot = w->s.clock.boot_ns;
	w->restarts++;
}

/* ---- passes ---- */

static uint64_t expire_ingests(struct world *w, int64_t keep)
{
	uint64_t n = 0;
	for (int i = 0; i < M_SLOTS; i++) {
		struct m_ingest *ing = &w->m.ingests[i];
		if (!ing->on || ing->open || w->s.clock.boot_ns - ing->touched_boot < keep)
			continue;
		ing->on = false;
		n++;
	}
	return n;
}

/* A listing brings the history up to date before anybody else sees it. */
static void choose_listing(struct world *w, struct m_pass *p)
{
	unsigned how = below(w, 10);
	p->sure = how < 7;
	if (how < 6) {
		look_at_images(w);
		w->m.then = w->m.now;
		p->claims = &w->m.now;
	} else if (how > 7) {
		p->claims = &w->m.then; /* an old one, or another containerd's */
	}				/* else there is nobody to ask, or he does not answer */
}

static void collect(struct world *w)
{
	static struct m_pass p;
	p = (struct m_pass){.prune = -1, .prune_keep = below(w, 3)};
	choose_listing(w, &p);
	if (below(w, 3) == 0) p.prune = (int)below(w, below(w, 4) == 0 ? M_NAMES : M_MOVING);
	uint64_t own = model_own(&w->m), high = next_random(&w->x) % (2 * own + 1);
	p.low = high - next_random(&w->x) % (high + 1) * below(w, 2);
	const struct cairn_gc_rules rules = {
		.keep_ns = between(w, HOUR, 60 * HOUR),
		.marks = {{false, high}, {false, p.low}, {true, 0}},
		.keep_versions = below(w, 4),
		.keep_versions_ns = between(w, 0, 90 * HOUR),
	};
	struct cairn_gc_pass_opts opts = {
		.cache = w->s.cache,
		.clock = &w->s.clock.clock,
		.rules = &rules,
		.sure = p.sure,
		.trigger = (enum cairn_gc_trigger)below(w, 4),
		.dry_run = below(w, 6) == 0,
		.prune = p.prune >= 0 ? w->m.names[p.prune] : NULL,
		.prune_keep = p.prune_keep,
	};
	struct cairn_gc_pass pass;
	tick(w);
	p.now = now(w);
	p.real = w->s.clock.real_ns;
	p.keep = rules.keep_ns;
	p.keep_versions = rules.keep_versions;
	p.keep_versions_ns = rules.keep_versions_ns;
	p.pressed = opts.trigger == CAIRN_GC_BY_DELETE || own > high;
	model_decide(&w->m, &p);
	if (p.claims != NULL) opts.listing = listing_of(w, p.claims);
	cairn_gc_pass_run(&opts, &pass);
	check_pass(w, &pass, &p);
	if (!opts.dry_run) {
		assert_int_equal(pass.summary.versions_dropped, model_apply(&w->m, &p));
		assert_int_equal(pass.summary.ingests_dropped,
				 expire_ingests(w, p.keep > HOUR ? p.keep : HOUR));
		w->ingests += pass.summary.ingests_dropped;
		w->versions += pass.summary.versions_dropped;
	}
	w->passes++;
	w->unsure += !p.sure;
	cairn_gc_pass_fini(&pass);
	cairn_listing_unref(opts.listing);
	check_blobs(w);
	check_history(w);
}

/* ---- the run ---- */

static void step(struct world *w)
{
	static const struct {
		unsigned share; /* of 1000 */
		void (*run)(struct world *w);
	} moves[] = {
		{70, fill_blob},	{150, release},	    {70, change_image}, {80, change_lease},
		{80, change_container}, {20, change_pin},   {210, read_blob},	{150, ingest},
		{40, look_at_images},	{70, change_clock}, {25, collect},	{1, restart},
	};
	unsigned at = below(w, 1000);
	for (size_t i = 0; i < CAIRN_LEN(moves); i++) {
		if (at < moves[i].share) {
			moves[i].run(w);
			return;
		}
		at -= moves[i].share;
	}
	pull(w, random_root(w));
}

static int start(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	w->x = test_seed();
	model_init(&w->m, &w->x);
	/* Thousands of flushes: in memory, where there is some. */
	bool shm = access("/dev/shm", W_OK) == 0;
	if (shm) snprintf(w->s.dir, sizeof(w->s.dir), "/dev/shm/cairn-model-XXXXXX");
	if (!shm) tmp_template(w->s.dir, sizeof(w->s.dir), "model");
	if (mkdtemp(w->s.dir) == NULL) return -1;
	w->s.clock.clock = (struct cairn_clock){test_real, test_boot};
	w->s.clock.real_ns = INT64_C(1700000000) * SECOND;
	w->s.clock.boot_ns = 100000 * SECOND;
	w->s.own_clock = true;
	w->offset_ns = w->s.clock.real_ns - w->s.clock.boot_ns;
	for (int i = 0; i < M_SLOTS; i++) w->readers[i].of = -1;
	store_open(&w->s);
	*state = w;
	return 0;
}

static int finish(void **state)
{
	struct world *w = *state;
	for (int i = 0; i < M_SLOTS; i++) {
		if (w->readers[i].of >= 0) end_reader(w, &w->readers[i], true);
		close_session(w, i);
	}
	store_close(&w->s);
	nftw(w->s.dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	model_fini(&w->m);
	free(w);
	return 0;
}

static void passes__do_what_the_model_says(void **state)
{
	struct world *w = *state;
	const char *given = getenv("CAIRN_MODEL_OPS");
	size_t ops = given != NULL ? strtoull(given, NULL, 0) : OPS;
	for (; w->op < ops; w->op++) step(w);
	check_blobs(w);
	check_history(w);
	print_message("%zu operations: %zu passes (%zu unsure), %zu restarts, %zu prefilled "
		      "commits, %zu ingests and %zu versions dropped, %zu blobs of kept versions "
		      "given up\n",
		      w->op, w->passes, w->unsure, w->restarts, w->prefilled, w->ingests,
		      w->versions, w->given_up);
	for (int why = 1; why < CAIRN_GC_WHYS; why++) {
		print_message("  %s: %zu\n", cairn_gc_why_name((enum cairn_gc_why)why),
			      w->seen[why]);
		/* No pass is stopped here. */
		if (ops >= OPS) assert_int_equal(w->seen[why] > 0, why != CAIRN_GC_LATER);
	}
	if (ops >= OPS) assert_true(w->given_up > 0 && w->ingests > 0 && w->versions > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(passes__do_what_the_model_says, start, finish),
	};
	cairn_log_set_level(CAIRN_LOG_ERROR);
	return cmocka_run_group_tests_name("plugin/gc, model", tests, NULL, NULL);
}
