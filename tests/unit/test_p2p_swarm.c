/* Several swarms in one process: who gets what from whom. */
#include "support/liar.h"

static void here__at_once(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(1000, 1);
	add_cached(node->store, &content);
	struct cairn_want *want = cairn_swarm_want(node->swarm, &content.digest, content.n, true);
	assert_int_equal(cairn_want_look(want, NULL, NULL), CAIRN_WANT_HERE);
	cairn_want_release(want);
	content_free(&content);
}

static void alone__is_granted(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(3 * MIB + 5, 2);
	struct pull p = {0};
	pull_begin(&p, node, &content);
	assert_here(&p);
	assert_true(p.granted);
	assert_int_equal(stats_of(node).grants, 1);
	UNTIL(stats_of(node).fills == 0);
	content_free(&content);
}

static void late__comes_from_a_peer(void **state)
{
	struct cluster *c = *state;
	struct node *a = cluster_add(c), *b = cluster_add(c);
	struct content content = content_new(5 * MIB + 77, 3), small = content_new(2000, 4);
	add_cached(a->store, &content);
	add_cached(a->store, &small);
	UNTIL(is_announced(c, 2));
	struct pull p = {0}, q = {.never_fetch = true};
	pull_begin(&p, b, &content);
	assert_here(&p);
	pull_begin(&q, b, &small);
	assert_here(&q);
	assert_false(p.granted);
	assert_int_equal(c->registry_bytes, 0);
	/* What was on its way twice is counted twice. */
	assert_true(stats_of(b).from_peers_bytes >= content.n + small.n);
	UNTIL(stats_of(a).to_peers_bytes >= content.n + small.n);
	assert_int_equal(stats_of(b).fills_done, 2);
	content_free(&content);
	content_free(&small);
}

static void cold__five_at_once(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(12 * MIB + 3, 5);
	struct pull pulls[5] = {0};
	for (int i = 0; i < 5; i++) cluster_add(c);
	for (int i = 0; i < 5; i++) {
		pulls[i].pause_us = 10000;
		pull_begin(&pulls[i], &c->nodes[i], &content);
	}
	for (int i = 0; i < 5; i++) assert_here(&pulls[i]);
	assert_int_equal(c->registry_bytes, content.n);
	content_free(&content);
}

static void cold__two(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(4 * MIB, 6);
	struct pull pulls[2] = {0};
	for (int i = 0; i < 2; i++) cluster_add(c);
	for (int i = 0; i < 2; i++) pull_begin(&pulls[i], &c->nodes[i], &content);
	for (int i = 0; i < 2; i++) assert_here(&pulls[i]);
	assert_int_equal(c->registry_bytes, content.n);
	content_free(&content);
}

/* Of what is on the disk of a node nothing comes again, also after a restart. */
static void half__comes_from_disk(void **state)
{
	struct cluster *c = *state;
	struct node *a = cluster_add(c), *b = cluster_add(c);
	struct content content = content_new(8 * MIB + 1, 7);
	/* b follows a, whose runtime stops at a half; then b wants it no more. */
	struct pull first = {.stop_at = 4 * MIB, .hang = true};
	pull_begin(&first, a, &content);
	UNTIL(first.granted);
	struct cairn_want *want = cairn_swarm_want(b->swarm, &content.digest, content.n, false);
	uint64_t done = 0;
	UNTIL(cairn_want_look(want, &done, NULL) == CAIRN_WANT_FILLING && done == 4 * MIB);
	cairn_want_release(want);
	UNTIL(stats_of(b).fills == 0);
	pull_end(&first);
	node_stop(b);
	store_reopen(b->store);
	node_start(b);
	add_cached(a->store, &content);
	UNTIL(is_announced(c, 1));
	struct pull second = {0};
	pull_begin(&second, b, &content);
	assert_here(&second);
	assert_false(second.granted);
	assert_int_equal(stats_of(b).from_peers_bytes, 4 * MIB + 1);
	content_free(&content);
}

/* The granted node's runtime gives up: another one fetches, nobody fails. */
static void takeover_after(struct cluster *c, uint64_t stop_at, bool hang)
{
	struct content content = content_new(10 * MIB + 9, 8);
	struct pull first = {.stop_at = stop_at, .hang = hang, .pause_us = 5000};
	struct pull pulls[3] = {0};
	for (int i = 0; i < 4; i++) cluster_add(c);
	pull_begin(&first, &c->nodes[0], &content);
	UNTIL(first.granted);
	for (int i = 0; i < 3; i++) {
		pulls[i].pause_us = 5000;
		pull_begin(&pulls[i], &c->nodes[i + 1], &content);
	}
	for (int i = 0; i < 3; i++) assert_here(&pulls[i]);
	assert_int_equal(pulls[0].granted + pulls[1].granted + pulls[2].granted, 1);
	assert_int_equal(c->registry_bytes, stop_at + content.n);
	pull_end(&first);
	content_free(&content);
}

static void granted__aborts_early(void **state)
{
	takeover_after(*state, 1 * MIB, false);
}

static void granted__aborts_in_the_middle(void **state)
{
	takeover_after(*state, 5 * MIB, false);
}

static void granted__aborts_late(void **state)
{
	takeover_after(*state, 9 * MIB, false);
}

static void granted__stalls(void **state)
{
	struct cluster *c = *state;
	c->opts.stall_ms = 4000; /* more than the next one may be late by */
	takeover_after(c, 3 * MIB, true);
	uint64_t takeovers = 0;
	for (size_t i = 0; i < c->n; i++) takeovers += stats_of(&c->nodes[i]).takeovers;
	assert_int_equal(takeovers, 1);
}

/* Far below min_rate: one other node fetches, too. */
static void granted__is_slow(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(6 * MIB, 9);
	struct pull first = {.pause_us = 1000000}, pulls[3] = {0};
	c->opts.min_rate = 2 * MIB;
	c->opts.stall_ms = 1000;
	for (int i = 0; i < 4; i++) cluster_add(c);
	pull_begin(&first, &c->nodes[0], &content);
	UNTIL(first.granted);
	for (int i = 0; i < 3; i++) pull_begin(&pulls[i], &c->nodes[i + 1], &content);
	for (int i = 0; i < 3; i++) assert_here(&pulls[i]);
	assert_int_equal(pulls[0].granted + pulls[1].granted + pulls[2].granted, 1);
	assert_here(&first);
	content_free(&content);
}

/* A runtime that wants forty at once and fetches few: three grants at a time are ours. */
static void grants__are_few(void **state)
{
	enum { BLOBS = 40 };
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content contents[BLOBS];
	struct cairn_want *wants[BLOBS];
	struct cairn_err err = {0};
	for (int i = 0; i < BLOBS; i++) {
		contents[i] = content_new(3000, 100 + i);
		wants[i] = cairn_swarm_want(node->swarm, &contents[i].digest, contents[i].n, true);
	}
	for (int done = 0; done < BLOBS;) {
		int granted[BLOBS], n = 0, asking = 0;
		do {
			n = asking = 0;
			for (int i = 0; i < BLOBS; i++) {
				enum cairn_want_state st = cairn_want_look(wants[i], NULL, NULL);
				if (st == CAIRN_WANT_GRANTED) granted[n++] = i;
				if (st == CAIRN_WANT_ASKING) asking++;
				assert_int_not_equal(st, CAIRN_WANT_FAILED);
			}
		} while (asking > 0 || n < (BLOBS - done < 3 ? BLOBS - done : 3));
		assert_true(n <= 3);
		struct content *content = &contents[granted[0]];
		struct cairn_ingest *ing = open_ref(node->store, "fetch", content, true, false);
		assert_ok(put(ing, 0, content->data, content->n, &err));
		cairn_ingest_close(ing);
		cairn_cache_abort(node->store->cache, "fetch");
		UNTIL(cairn_want_look(wants[granted[0]], NULL, NULL) == CAIRN_WANT_HERE);
		done++;
	}
	for (int i = 0; i < BLOBS; i++) {
		cairn_want_release(wants[i]);
		content_free(&contents[i]);
	}
	assert_int_equal(stats_of(node).grants, BLOBS);
}

/* Two runtimes of one node: the second is granted when the first lets go. */
static void wants__share_a_fill(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(2 * MIB, 10);
	struct cairn_want *a = cairn_swarm_want(node->swarm, &content.digest, content.n, true);
	UNTIL(cairn_want_look(a, NULL, NULL) == CAIRN_WANT_GRANTED);
	struct cairn_want *b = cairn_swarm_want(node->swarm, &content.digest, content.n, true);
	UNTIL(cairn_want_look(b, NULL, NULL) == CAIRN_WANT_WAITING);
	assert_int_equal(stats_of(node).fills, 1);
	cairn_want_release(a);
	UNTIL(cairn_want_look(b, NULL, NULL) == CAIRN_WANT_GRANTED);
	add_cached(node->store, &content);
	UNTIL(cairn_want_look(b, NULL, NULL) == CAIRN_WANT_HERE);
	cairn_want_release(b);
	UNTIL(stats_of(node).fills == 0);
	content_free(&content);
}

struct calls {
	atomic_uint n;
};

static void note(void *arg)
{
	struct calls *calls = arg;
	atomic_fetch_add(&calls->n, 1);
}

static void watch__is_told(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(2 * MIB, 11);
	struct calls calls = {0};
	struct cairn_want *want = cairn_swarm_want(node->swarm, &content.digest, content.n, true);
	cairn_want_watch(want, note, &calls);
	UNTIL(cairn_want_look(want, NULL, NULL) == CAIRN_WANT_GRANTED);
	add_cached(node->store, &content);
	UNTIL(cairn_want_look(want, NULL, NULL) == CAIRN_WANT_HERE);
	UNTIL(atomic_load(&calls.n) > 0);
	cairn_want_watch(want, NULL, NULL);
	cairn_want_release(want);
	content_free(&content);
}

static void nobody__has_it(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(2 * MIB, 12);
	struct pull p = {.never_fetch = true};
	pull_begin(&p, node, &content);
	assert_int_equal(pull_end(&p), CAIRN_WANT_FAILED);
	assert_int_equal(p.why.code, CAIRN_NOT_FOUND);
	content_free(&content);
}

/* Records of nodes that are not there any more cost a try each, not the pull. */
static void stale__records(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(2 * MIB, 13);
	struct cairn_directory *dead = cairn_memory_directory(c->mem, "127.0.0.1:1");
	dead->ops->announce(dead, &content.digest, 1);
	struct pull p = {0}, q = {.never_fetch = true};
	pull_begin(&q, node, &content);
	assert_int_equal(pull_end(&q), CAIRN_WANT_FAILED);
	pull_begin(&p, node, &content);
	assert_here(&p);
	assert_true(p.granted);
	dead->ops->close(dead, 0);
	content_free(&content);
}

/* A tenant of a node writes garbage for somebody else's digest. */
static void wrong__originator(void **state)
{
	struct cluster *c = *state;
	struct node *a = cluster_add(c), *b = cluster_add(c), *d = cluster_add(c);
	struct content content = content_new(6 * MIB + 4, 14),
		       garbage = content_new(6 * MIB + 4, 15);
	struct pull first = {.bytes = garbage.data, .pause_us = 50000, .hang = true};
	struct pull second = {0}, third = {0};
	pull_begin(&first, a, &content);
	UNTIL(first.granted);
	pull_begin(&second, b, &content);
	pull_begin(&third, d, &content);
	assert_int_equal(pull_end(&second), CAIRN_WANT_FAILED);
	assert_int_equal(second.why.code, CAIRN_DATA_LOSS);
	/* The other may have lost its source before it was told so, and fetches it then. */
	if (pull_end(&third) == CAIRN_WANT_HERE) {
		assert_true(third.granted);
	} else {
		assert_int_equal(third.why.code, CAIRN_DATA_LOSS);
	}
	pull_end(&first);
	assert_int_equal(state_of(a->store, &content.digest), 0);
	assert_int_equal(state_of(b->store, &content.digest), 0);
	/* The true one goes round. */
	if (state_of(d->store, &content.digest) == 0) add_cached(d->store, &content);
	UNTIL(is_announced(c, 1));
	struct pull again = {.never_fetch = true};
	pull_begin(&again, b, &content);
	assert_here(&again);
	content_free(&content);
	content_free(&garbage);
}

static void directory__hangs(void **state)
{
	struct cluster *c = *state;
	c->opts.decide_ms = 200;
	struct node *node = cluster_add(c);
	struct content content = content_new(2 * MIB, 33);
	node->swarm->started_ms -= CAIRN_SWARM_START_MS; /* it has not just been started */
	atomic_store(&directory_hangs, true);
	struct pull p = {0}, q = {0};
	int64_t begin_ms = cairn_swarm_now_ms();
	pull_begin(&p, node, &content);
	assert_int_equal(pull_end(&p), CAIRN_WANT_FAILED);
	int64_t took_ms = cairn_swarm_now_ms() - begin_ms;
	assert_true(took_ms >= 200 && took_ms < 1500);
	/* Just after the start it waits longer; but not when all is to stop. */
	node->swarm->started_ms = cairn_swarm_now_ms();
	pull_begin(&q, node, &content);
	UNTIL(stats_of(node).fills == 1);
	begin_ms = cairn_swarm_now_ms();
	cairn_swarm_cancel(node->swarm);
	pull_end(&q);
	node_stop(node);
	assert_true(cairn_swarm_now_ms() - begin_ms < 2500);
	atomic_store(&directory_hangs, false);
	content_free(&content);
}

static void secret__does_not_leave(void **state)
{
	struct cluster *c = *state;
	struct node *a = cluster_add(c), *b = cluster_add(c);
	struct content content = content_new(2 * MIB, 16);
	add_cached(a->store, &content);
	UNTIL(is_announced(c, 1));
	atomic_store(&a->secret, true);
	/* Also while the directory still says so. */
	struct pull p = {.never_fetch = true}, q = {.never_fetch = true};
	pull_begin(&p, b, &content);
	assert_int_equal(pull_end(&p), CAIRN_WANT_FAILED);
	cairn_swarm_reconsider(a->swarm, &content.digest);
	UNTIL(is_announced(c, 0));
	atomic_store(&a->secret, false);
	cairn_swarm_reconsider(a->swarm, &content.digest);
	UNTIL(is_announced(c, 1));
	pull_begin(&q, b, &content);
	assert_here(&q);
	content_free(&content);
}

static void start__announces_what_is_here(void **state)
{
	struct cluster *c = *state;
	struct node *a = cluster_add(c), *b = cluster_add(c);
	struct content contents[5];
	for (int i = 0; i < 5; i++) contents[i] = content_new(1000, 200 + i);
	node_stop(a);
	for (int i = 0; i < 5; i++) add_cached(a->store, &contents[i]);
	node_start(a);
	UNTIL(is_announced(c, 5));
	struct pull p = {.never_fetch = true};
	pull_begin(&p, b, &contents[3]);
	assert_here(&p);
	for (int i = 0; i < 5; i++) content_free(&contents[i]);
}

/* What is said of it all while it goes on. */
static void status__of_a_transfer(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(4 * MIB, 22);
	c->opts.upload_limit = MIB; /* so that it lasts until we have looked */
	struct node *a = cluster_add(c), *b = cluster_add(c);
	add_cached(a->store, &content);
	UNTIL(is_announced(c, 1));
	int64_t begin_ms = cairn_swarm_now_ms();
	struct pull p = {.never_fetch = true};
	pull_begin(&p, b, &content);
	struct cairn_fill_status fill;
	struct cairn_upload_status upload;
	UNTIL(cairn_swarm_fills(b->swarm, &fill, 1) == 1 && fill.done > 0);
	assert_int_equal(fill.state, CAIRN_WANT_FILLING);
	assert_int_equal(fill.sources, 1);
	UNTIL(cairn_swarm_uploads(a->swarm, &upload, 1) == 1 && upload.bytes > 0);
	assert_string_equal(upload.address, cairn_swarm_address(b->swarm));
	struct cairn_peer_status peers[3];
	assert_int_equal(cairn_swarm_peers(b->swarm, peers, 3), 2);
	for (int i = 0; i < 2; i++) {
		assert_true(peers[i].member);
		assert_int_equal(peers[i].self, peers[i].from_bytes == 0);
	}
	assert_here(&p);
	/* A quarter of a second's bytes come at once. */
	assert_true(cairn_swarm_now_ms() - begin_ms >= 3000);
	assert_int_equal(stats_of(b).members, 2);
	UNTIL(stats_of(a).uploads == 0);
	content_free(&content);
}

static void limit__of_downloads(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(4 * MIB, 23);
	struct cairn_rate download; /* others take from it, too */
	cairn_rate_init(&download, 4 * MIB, cairn_boot_ns(&cairn_clock_system));
	c->opts.download = &download;
	struct node *a = cluster_add(c), *b = cluster_add(c);
	add_cached(a->store, &content);
	UNTIL(is_announced(c, 1));
	int64_t begin_ms = cairn_swarm_now_ms();
	struct pull p = {.never_fetch = true};
	(void)cairn_rate_take(&download, 2 * MIB, cairn_boot_ns(&cairn_clock_system));
	pull_begin(&p, b, &content);
	assert_here(&p);
	assert_true(cairn_swarm_now_ms() - begin_ms >= 1000); /* 600 if it were alone */
	node_stop(a);
	node_stop(b);
	cairn_rate_fini(&download);
	content_free(&content);
}

/* A damaged blob is had again from a peer. */
static void damaged__is_healed(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(3 * MIB, 24);
	struct node *a = cluster_add(c), *b = cluster_add(c);
	struct cairn_err err = {0};
	char path[700], hex[CAIRN_DIGEST_STR];
	add_cached(a->store, &content);
	add_referenced(b->store, &content);
	UNTIL(is_announced(c, 2));
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s", b->store->dir,
		 cairn_digest_hex(&content.digest, hex));
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		assert_int_equal(chmod(path, 0600), 0);
		fd = open(path, O_WRONLY | O_CLOEXEC);
	}
	assert_int_equal(pwrite(fd, "x", 1, 5), 1);
	close(fd);
	assert_code(cairn_cache_verify(b->store->cache, &content.digest, NULL, NULL, &err),
		    CAIRN_DATA_LOSS);
	assert_true(is_damaged(b->store, &content.digest));
	UNTIL(is_announced(c, 1));
	struct pull p = {.never_fetch = true};
	pull_begin(&p, b, &content);
	assert_here(&p);
	assert_false(is_damaged(b->store, &content.digest));
	assert_int_equal(state_of(b->store, &content.digest), CAIRN_BLOB_REFERENCED);
	UNTIL(is_announced(c, 2));
	content_free(&content);
}

/* ---- whoever lies -------------------------------------------------------------------------------
 */

/* With an honest peer the blob comes, whatever the liar does; alone, nothing of it is believed. */
static void lie(struct cluster *c, enum lie lie)
{
	struct content content = content_new(6 * MIB + 1, 17),
		       lonely = content_new(4 * MIB + 1, 18);
	struct liar liar = {.lie = lie}, only = {.lie = lie};
	if (lie == SILENT) c->opts.stall_ms = 1000;
	struct node *honest = cluster_add(c), *node = cluster_add(c), *alone = cluster_add(c);
	add_cached(honest->store, &content);
	UNTIL(is_announced(c, 1));
	liar_start(&liar, c, &content);
	liar_start(&only, c, &lonely);
	struct pull p = {.never_fetch = true}, q = {.never_fetch = true}, r = {0};
	pull_begin(&p, node, &content);
	assert_here(&p);
	pull_begin(&q, alone, &lonely);
	assert_int_equal(pull_end(&q), CAIRN_WANT_FAILED);
	assert_int_equal(state_of(alone->store, &lonely.digest), 0);
	pull_begin(&r, alone, &lonely);
	assert_here(&r);
	assert_true(r.granted);
	if (lie != SILENT && lie != HANGS_UP && lie != LOSES)
		assert_true(stats_of(alone).shunned > 0);
	liar_stop(&liar);
	liar_stop(&only);
	content_free(&content);
	content_free(&lonely);
}

static void liar__wrong_bytes(void **state)
{
	lie(*state, WRONG_BYTES);
}

static void liar__short_piece(void **state)
{
	lie(*state, SHORT);
}

static void liar__endless_piece(void **state)
{
	lie(*state, ENDLESS);
}

static void liar__wrong_list(void **state)
{
	lie(*state, WRONG_LIST);
}

static void liar__silent(void **state)
{
	lie(*state, SILENT);
}

static void liar__hangs_up(void **state)
{
	lie(*state, HANGS_UP);
}

static void liar__other_piece(void **state)
{
	lie(*state, OTHER_PIECE);
}

static void liar__loses_all(void **state)
{
	lie(*state, LOSES);
}

/* What it lost it is not asked for again; the rest of it is of use. */
static void peer__loses_a_piece(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(6 * MIB + 1, 34);
	struct liar liar = {.lie = LOSES_ONE};
	c->opts.stall_ms = 20000;
	struct node *node = cluster_add(c), *later = cluster_add(c);
	liar_start(&liar, c, &content);
	struct pull p = {.never_fetch = true};
	pull_begin(&p, node, &content);
	UNTIL(stats_of(node).from_peers_bytes == content.n - MIB && liar.lost == 1);
	add_cached(later->store, &content);
	assert_here(&p);
	assert_int_equal(liar.lost, 1);
	assert_int_equal(stats_of(node).from_peers_bytes, content.n);
	liar_stop(&liar);
	content_free(&content);
}

/* ---- the end
 * ------------------------------------------------------------------------------------------ */

static void stop__while_all_runs(void **state)
{
	struct cluster *c = *state;
	struct content content = content_new(20 * MIB, 19), other = content_new(6 * MIB + 1, 20);
	struct pull pulls[4] = {0}, stuck = {.never_fetch = true};
	struct liar liar = {.lie = SILENT};
	c->opts.stall_ms = 30000;
	for (int i = 0; i < 4; i++) cluster_add(c);
	liar_start(&liar, c, &other);
	for (int i = 0; i < 4; i++) {
		pulls[i].stop_at = 10 * MIB;
		pulls[i].pause_us = 2000;
		pulls[i].hang = true;
		pull_begin(&pulls[i], &c->nodes[i], &content);
	}
	pull_begin(&stuck, &c->nodes[1], &other);
	UNTIL(liar.pieces > 0);
	for (int i = 0; i < 4; i++)
		UNTIL(pulls[i].granted || stats_of(&c->nodes[i]).from_peers_bytes);
	int64_t begin_ns = cairn_boot_ns(&cairn_clock_system);
	for (int i = 0; i < 4; i++) cairn_swarm_cancel(c->nodes[i].swarm);
	for (int i = 0; i < 4; i++) pull_end(&pulls[i]);
	pull_end(&stuck);
	for (int i = 0; i < 4; i++) node_stop(&c->nodes[i]);
	assert_true(cairn_boot_ns(&cairn_clock_system) - begin_ns < 15 * CAIRN_NS_PER_S);
	liar_stop(&liar);
	content_free(&content);
	content_free(&other);
}

static void release__ends_the_fill(void **state)
{
	struct cluster *c = *state;
	struct node *node = cluster_add(c);
	struct content content = content_new(6 * MIB + 1, 21);
	struct liar liar = {.lie = SILENT};
	liar_start(&liar, c, &content);
	struct cairn_want *want = cairn_swarm_want(node->swarm, &content.digest, content.n, false);
	UNTIL(liar.pieces > 0);
	cairn_want_release(want);
	UNTIL(stats_of(node).fills == 0);
	liar_stop(&liar);
	content_free(&content);
}

int main(void)
{
	cairn_log_set_level(CAIRN_LOG_ERROR);
#define TEST(f) cmocka_unit_test_setup_teardown(f, cluster_setup, cluster_teardown)
	const struct CMUnitTest tests[] = {
		TEST(here__at_once),
		TEST(alone__is_granted),
		TEST(late__comes_from_a_peer),
		TEST(cold__five_at_once),
		TEST(cold__two),
		TEST(half__comes_from_disk),
		TEST(granted__aborts_early),
		TEST(granted__aborts_in_the_middle),
		TEST(granted__aborts_late),
		TEST(granted__stalls),
		TEST(granted__is_slow),
		TEST(grants__are_few),
		TEST(wants__share_a_fill),
		TEST(watch__is_told),
		TEST(nobody__has_it),
		TEST(stale__records),
		TEST(wrong__originator),
		TEST(directory__hangs),
		TEST(secret__does_not_leave),
		TEST(start__announces_what_is_here),
		TEST(status__of_a_transfer),
		TEST(limit__of_downloads),
		TEST(damaged__is_healed),
		TEST(liar__wrong_bytes),
		TEST(liar__short_piece),
		TEST(liar__endless_piece),
		TEST(liar__wrong_list),
		TEST(liar__silent),
		TEST(liar__other_piece),
		TEST(liar__hangs_up),
		TEST(liar__loses_all),
		TEST(peer__loses_a_piece),
		TEST(stop__while_all_runs),
		TEST(release__ends_the_fill),
	};
	return cmocka_run_group_tests_name("p2p/swarm", tests, NULL, NULL);
}
