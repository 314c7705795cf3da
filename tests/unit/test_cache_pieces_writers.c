/* Several writers of the pieces of one blob, even of one piece, some of them with wrong bytes. */
#include <pthread.h>

#include "support/pieces.h"

#define MIB (1u << 20)

/* ---- two writers of one piece */

static void second_writer__harms_nothing_whoever_ends_first(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	struct content c = content_new(MIB + 1, 8), junk = content_new(MIB + 1, 9);
	uint8_t *list = list_of(&c);
	const size_t half = MIB / 2;
	/* Which of the two has the right bytes, which ends first. */
	for (unsigned i = 0; i < 8; i++) {
		bool right[2] = {(i & 1) != 0, (i & 2) != 0};
		unsigned first = (i & 4) != 0, second = 1 - first;
		struct cairn_piece_writer w[2];
		struct cairn_pieces *p = pieces_open(s, &c);
		for (size_t j = 0; j < 2; j++) cairn_piece_begin(p, 0, NULL, &w[j]);
		for (size_t at = 0; at < MIB; at += half) {
			for (size_t j = 0; j < 2; j++) {
				const uint8_t *from = right[j] ? c.data : junk.data;
				/* The second half of the one that ends last comes at its end. */
				if (at > 0 && j == second) continue;
				assert_ok(cairn_piece_write(&w[j], from + at, half, &err));
			}
		}
		assert_code(cairn_piece_end(&w[first], list, &err),
			    right[first] ? CAIRN_OK : CAIRN_DATA_LOSS);
		assert_int_equal(cairn_pieces_has(p, 0), right[first]);
		const uint8_t *from = right[second] ? c.data : junk.data;
		assert_ok(cairn_piece_write(&w[second], from + half, half, &err));
		assert_code(cairn_piece_end(&w[second], list, &err),
			    right[second] ? CAIRN_OK : CAIRN_DATA_LOSS);
		bool here = right[0] || right[1];
		assert_int_equal(cairn_pieces_has(p, 0), here);
		uint8_t *buf = malloc(MIB);
		if (here) assert_ok(cairn_pieces_read(p, 0, buf, MIB, &err));
		if (here) assert_memory_equal(buf, c.data, MIB);
		free(buf);
		cairn_pieces_close(p, false);
	}
	free(list);
	content_free(&c);
	content_free(&junk);
}

struct filling {
	struct cairn_pieces *p;
	const struct content *c, *junk;
	const uint8_t *list;
	uint64_t x;
	bool honest;
};

static void *fill_by_chance(void *arg)
{
	struct filling *f = arg;
	struct cairn_err err;
	uint32_t count = cairn_piece_count(f->c->n), *order = shuffled(count, &f->x);
	uint8_t *buf = malloc(MIB);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t k = order[i];
		size_t part = 1000 + next_random(&f->x) % 300000;
		bool honest = f->honest || next_random(&f->x) % 2 == 0;
		const uint8_t *from = honest ? f->c->data : f->junk->data;
		enum cairn_code code = put_piece(f->p, f->c, f->list, k, from, part, &err);
		if (code != (honest ? CAIRN_OK : CAIRN_DATA_LOSS)) abort();
		if (!cairn_pieces_has(f->p, k)) continue;
		size_t n = (size_t)cairn_piece_length(f->c->n, k);
		if (cairn_pieces_read(f->p, (uint64_t)k * MIB, buf, n, &err) != CAIRN_OK) abort();
		if (memcmp(buf, f->c->data + (size_t)k * MIB, n) != 0) abort();
	}
	free(buf);
	free(order);
	return NULL;
}

static void many_writers__at_once(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint64_t x = test_seed();
	struct content c = content_new(12 * MIB + 5, 10), junk = content_new(12 * MIB + 5, 11);
	uint8_t *list = list_of(&c);
	struct cairn_pieces *p = pieces_open(s, &c);
	pthread_t threads[4];
	struct filling f[4];
	for (size_t i = 0; i < 4; i++) {
		f[i] = (struct filling){p, &c, &junk, list, next_random(&x), i % 2 == 0};
		assert_int_equal(pthread_create(&threads[i], NULL, fill_by_chance, &f[i]), 0);
	}
	for (size_t i = 0; i < 4; i++) pthread_join(threads[i], NULL);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, false);
	store_reopen(s); /* and prove it from the disk */
	assert_ok(read_and_compare(s, &c, &err));
	free(list);
	content_free(&c);
	content_free(&junk);
}

/* ---- forgetting beside writers */

struct forgetting {
	struct filling f;
	_Atomic bool stop;
};

static void *fill_again_and_again(void *arg)
{
	struct forgetting *g = arg;
	struct filling *f = &g->f;
	struct cairn_err err;
	uint32_t count = cairn_piece_count(f->c->n);
	while (!g->stop) {
		uint32_t k = (uint32_t)(next_random(&f->x) % count);
		if (next_random(&f->x) % 4 == 0) {
			(void)cairn_pieces_recover(f->p, k, before(f->c, f->list, k),
						   entry(f->c, f->list, k));
			continue;
		}
		size_t part = 1 + next_random(&f->x) % MIB;
		const uint8_t *from = f->honest ? f->c->data : f->junk->data;
		enum cairn_code code = put_piece(f->p, f->c, f->list, k, from, part, &err);
		if (code == CAIRN_ABORTED && f->honest) continue;
		if (code != (f->honest ? CAIRN_OK : CAIRN_DATA_LOSS)) abort();
	}
	return NULL;
}

static void forget__at_any_time_leaves_no_wrong_byte(void **state)
{
	struct store *s = *state;
	struct cairn_err err;
	uint64_t x = test_seed();
	struct content c = content_new(3 * MIB + 5, 30), junk = content_new(3 * MIB + 5, 31);
	uint8_t *list = list_of(&c), *buf = malloc(MIB);
	struct cairn_pieces *p = pieces_open(s, &c);
	pthread_t threads[3];
	struct forgetting g[3];
	for (size_t i = 0; i < 3; i++) {
		g[i] = (struct forgetting){.stop = false};
		g[i].f = (struct filling){p, &c, &junk, list, next_random(&x), i > 0};
		assert_int_equal(pthread_create(&threads[i], NULL, fill_again_and_again, &g[i]), 0);
	}
	for (unsigned i = 0; i < 60;) {
		uint32_t k = (uint32_t)(next_random(&x) % 4);
		size_t n = (size_t)cairn_piece_length(c.n, k);
		if (cairn_pieces_read(p, (uint64_t)k * MIB, buf, n, &err) != CAIRN_OK) {
			cairn_let_others_in();
			continue;
		}
		/* Nobody else makes them forget: so it was here all the time. */
		assert_memory_equal(buf, c.data + (size_t)k * MIB, n);
		if (next_random(&x) % 2 == 0) cairn_pieces_forget(p);
		i++;
	}
	for (size_t i = 0; i < 3; i++) g[i].stop = true;
	for (size_t i = 0; i < 3; i++) pthread_join(threads[i], NULL);
	put_all(p, &c, list);
	assert_ok(cairn_pieces_publish(p, &err));
	cairn_pieces_close(p, false);
	store_reopen(s); /* and prove it from the disk */
	assert_ok(read_and_compare(s, &c, &err));
	free(buf);
	free(list);
	content_free(&c);
	content_free(&junk);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup_open, store_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(second_writer__harms_nothing_whoever_ends_first),
		TEST(many_writers__at_once),
		TEST(forget__at_any_time_leaves_no_wrong_byte),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
