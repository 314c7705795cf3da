#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "plugin/boltdb.h"
#include "support/tmp.h"

#define META_DB CAIRN_TEST_DATA "/containerd-1.6.20-meta.db"
#define META_TXT CAIRN_TEST_DATA "/containerd-1.6.20-meta.txt"

struct fixture {
	uint8_t *data;
	size_t len;
	char path[64]; /* a copy that a test may spoil */
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct stat st;
	int fd = open(META_DB, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	f->len = (size_t)st.st_size;
	f->data = malloc(f->len);
	assert_int_equal(read(fd, f->data, f->len), (ssize_t)f->len);
	close(fd);
	tmp_template(f->path, sizeof(f->path), "boltdb");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	close(fd);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	unlink(f->path);
	free(f->data);
	free(f);
	return 0;
}

static void put(const struct fixture *f, const uint8_t *data, size_t len)
{
	int fd = open(f->path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	close(fd);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "namespace digest" a line, sorted: as the fixture's text has it. */
static char *as_text(const struct cairn_records *r)
{
	char **lines = calloc(r->n + 1, sizeof(*lines));
	size_t total = 1;
	for (size_t i = 0; i < r->n; i++) {
		char digest[CAIRN_DIGEST_STR];
		cairn_digest_format(&r->list[i].digest, digest);
		assert_true(r->list[i].ns < r->n_namespaces);
		assert_true(asprintf(&lines[i], "%s %s\n", r->namespaces[r->list[i].ns], digest) >
			    0);
		total += strlen(lines[i]);
	}
	qsort(lines, r->n, sizeof(*lines), by_text);
	char *text = calloc(1, total);
	for (size_t i = 0; i < r->n; i++) {
		strcat(text, lines[i]);
		free(lines[i]);
	}
	free(lines);
	return text;
}

static void assert_is_the_fixture(const struct cairn_records *r)
{
	char want[16384] = "";
	FILE *file = fopen(META_TXT, "re");
	assert_non_null(file);
	want[fread(want, 1, sizeof(want) - 1, file)] = '\0';
	fclose(file);
	char *got = as_text(r);
	assert_string_equal(got, want);
	free(got);
}

static void read__finds_what_containerd_recorded(void **state)
{
	(void)state;
	struct cairn_err err;
	struct cairn_records r;
	bool running = true;
	assert_int_equal(cairn_boltdb_read(META_DB, &r, &running, &err), CAIRN_OK);
	assert_false(running);
	assert_int_equal(r.n, 44);
	assert_int_equal(r.n_namespaces, 2);
	assert_int_equal(r.foreign, 0);
	assert_is_the_fixture(&r);
	cairn_records_fini(&r);
}

static void read__tells_that_containerd_runs(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_records r;
	bool running = false;
	put(f, f->data, f->len);
	int fd = open(f->path, O_RDWR | O_CLOEXEC); /* as bbolt does */
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_OK);
	assert_true(running);
	assert_is_the_fixture(&r); /* readable all the same */
	cairn_records_fini(&r);
	close(fd);
}

static void read__leaves_no_lock_behind(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_records r;
	bool running;
	put(f, f->data, f->len);
	assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_OK);
	cairn_records_fini(&r);
	int fd = open(f->path, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	close(fd);
}

static void read__uses_the_other_meta_page_when_one_is_broken(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	for (size_t broken = 0; broken < 2; broken++) {
		struct cairn_records r;
		bool running;
		f->data[broken * 4096 + 20] ^= 0xff;
		put(f, f->data, f->len);
		f->data[broken * 4096 + 20] ^= 0xff;
		assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_OK);
		/* the older state may lack what the last transaction did, no more */
		assert_true(r.n >= 43);
		cairn_records_fini(&r);
	}
}

static void read__says_what_is_wrong_with_the_file(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_records r;
	bool running;
	assert_int_equal(cairn_boltdb_read("/nonexistent/meta.db", &r, &running, &err),
			 CAIRN_NOT_FOUND);
	assert_non_null(strstr(err.msg, "/nonexistent/meta.db"));
	assert_int_equal(cairn_boltdb_read("/tmp", &r, &running, &err), CAIRN_DATA_LOSS);
	assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_DATA_LOSS);
	assert_non_null(strstr(err.msg, f->path));
	put(f, (const uint8_t *)"no database", 11);
	assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_DATA_LOSS);
}

static void read__survives_truncation_anywhere(void **state)
{
	struct fixture *f = *state;
	put(f, f->data, f->len);
	size_t sound = 0;
	for (size_t len = f->len - f->len % 512; len > 0; len -= 512) {
		struct cairn_err err;
		struct cairn_records r;
		bool running;
		assert_int_equal(truncate(f->path, (off_t)len), 0);
		if (cairn_boltdb_read(f->path, &r, &running, &err) != CAIRN_OK) continue;
		sound++;
		assert_is_the_fixture(&r); /* only unused pages were cut off */
		cairn_records_fini(&r);
	}
	assert_true(sound < f->len / 512);
}

/* A page whose bytes are changed is noticed or gives wrong names, but never more than the file can
 * hold, and never a crash (the sanitizers watch). The meta pages are left alone: their checksum
 * would stop most of the fun at the door. */
static void read__survives_random_damage(void **state)
{
	struct fixture *f = *state;
	unsigned seed = (unsigned)time(NULL);
	const char *given = getenv("CAIRN_SEED");
	if (given != NULL) seed = (unsigned)strtoul(given, NULL, 10);
	print_message("seed %u (CAIRN_SEED repeats it)\n", seed);
	srandom(seed);
	put(f, f->data, f->len);
	int fd = open(f->path, O_WRONLY | O_CLOEXEC);
	size_t refused = 0, pages = f->len / 4096;
	for (size_t round = 0; round < 20000; round++) {
		struct cairn_err err;
		struct cairn_records r;
		bool running;
		size_t at[8], n = 1 + (size_t)random() % CAIRN_LEN(at);
		for (size_t i = 0; i < n; i++) {
			/* half of the hits go to where the headers and elements are */
			size_t page = 2 + (size_t)random() % (pages - 2);
			at[i] = page * 4096 + (size_t)random() % (random() % 2 ? 4096 : 96);
			uint8_t byte = (uint8_t)random();
			assert_int_equal(pwrite(fd, &byte, 1, (off_t)at[i]), 1);
		}
		if (cairn_boltdb_read(f->path, &r, &running, &err) == CAIRN_OK) {
			assert_true(r.n <= f->len / 16);
			cairn_records_fini(&r);
		} else {
			refused++;
		}
		for (size_t i = 0; i < n; i++)
			assert_int_equal(pwrite(fd, f->data + at[i], 1, (off_t)at[i]), 1);
	}
	close(fd);
	print_message("%zu of 20000 refused\n", refused);
	assert_true(refused > 0);
}

/* ---- files made by hand ---- */

static void put16(uint8_t *at, uint16_t v)
{
	memcpy(at, &v, sizeof(v));
}

static void put64(uint8_t *at, uint64_t v)
{
	memcpy(at, &v, sizeof(v));
}

static uint64_t get64(const uint8_t *at)
{
	uint64_t v;
	memcpy(&v, at, sizeof(v));
	return v;
}

/* Set root and transaction of the meta page at file + page * 4096, and make it sound. */
static void set_meta(uint8_t *file, size_t page, uint64_t root, uint64_t txid)
{
	uint8_t *m = file + page * 4096 + 16;
	uint64_t sum = UINT64_C(14695981039346656037);
	put64(m + 16, root);
	put64(m + 48, txid);
	for (size_t i = 0; i < 56; i++) sum = (sum ^ m[i]) * UINT64_C(1099511628211);
	put64(m + 56, sum);
}

static void read__takes_the_newer_of_two_sound_states(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	const uint8_t *first = f->data + 16, *second = f->data + 4096 + 16;
	const uint64_t tx =
		get64(first + 48) > get64(second + 48) ? get64(first + 48) : get64(second + 48);
	const uint64_t root =
		get64((get64(first + 48) == tx ? first : second) + 16); /* of the newest */
	for (size_t newer = 0; newer < 2; newer++) {
		struct cairn_records r;
		bool running;
		set_meta(f->data, newer, root, tx + 1);
		set_meta(f->data, 1 - newer, 0, tx); /* where no root can be */
		put(f, f->data, f->len);
		assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_OK);
		assert_is_the_fixture(&r);
		cairn_records_fini(&r);
	}
}

/* Sizes and positions of every element, one at a time, set so that key or value leave the page. */
static void read__refuses_elements_that_reach_outside(void **state)
{
	struct fixture *f = *state;
	size_t refused = 0;
	put(f, f->data, f->len);
	int fd = open(f->path, O_WRONLY | O_CLOEXEC);
	for (size_t at = 2 * 4096; at < f->len; at += 4096) {
		const uint8_t *page = f->data + at;
		const size_t count = page[8] == 0x02 ? page[10] : 0;
		for (size_t field = 0; field < count * 3; field++) {
			const size_t where = at + 16 + field / 3 * 16 + 4 + field % 3 * 4;
			const uint32_t huge = 0xfffffff0;
			struct cairn_err err;
			struct cairn_records r;
			bool running;
			assert_int_equal(pwrite(fd, &huge, 4, (off_t)where), 4);
			if (cairn_boltdb_read(f->path, &r, &running, &err) == CAIRN_OK) {
				cairn_records_fini(&r); /* a page that is not in use */
			} else {
				refused++;
				assert_int_equal(err.code, CAIRN_DATA_LOSS);
			}
			assert_int_equal(pwrite(fd, f->data + where, 4, (off_t)where), 4);
		}
	}
	close(fd);
	assert_true(refused >= 44 * 3);
}

/* Three levels of branches, each of whose 250 elements leads to the same page: few pages, 16
 * million ways. The walk must not take them all. */
static void read__ends_when_many_ways_lead_to_one_page(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_records r;
	bool running;
	for (uint64_t id = 2; id <= 5; id++) {
		uint8_t *page = f->data + id * 4096;
		memset(page, 0, 4096);
		put64(page, id);
		put16(page + 8, id == 5 ? 0x02 : 0x01);
		put16(page + 10, id == 5 ? 0 : 250);
		for (size_t i = 0; i < 250 && id < 5; i++) put64(page + 16 + i * 16 + 8, id + 1);
	}
	set_meta(f->data, 0, 2, 1000001);
	put(f, f->data, f->len);
	assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_DATA_LOSS);
	assert_non_null(strstr(err.msg, "cycle"));
}

/* Every branch page made to point at itself: a cycle must end. */
static void read__ends_when_pages_form_a_cycle(void **state)
{
	struct fixture *f = *state;
	struct cairn_err err;
	struct cairn_records r;
	bool running;
	size_t branches = 0;
	for (size_t at = 2 * 4096; at < f->len; at += 4096) {
		uint8_t *page = f->data + at;
		if (page[8] != 0x01) continue;
		branches++;
		size_t count = page[10] | (size_t)page[11] << 8;
		for (size_t i = 0; i < count; i++) memcpy(page + 16 + i * 16 + 8, page, 8);
	}
	assert_true(branches > 0);
	put(f, f->data, f->len);
	assert_int_equal(cairn_boltdb_read(f->path, &r, &running, &err), CAIRN_DATA_LOSS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read__finds_what_containerd_recorded),
		cmocka_unit_test_setup_teardown(read__tells_that_containerd_runs, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read__leaves_no_lock_behind, set_up, tear_down),
		cmocka_unit_test_setup_teardown(read__uses_the_other_meta_page_when_one_is_broken,
						set_up, tear_down),
		cmocka_unit_test_setup_teardown(read__says_what_is_wrong_with_the_file, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read__survives_truncation_anywhere, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read__survives_random_damage, set_up, tear_down),
		cmocka_unit_test_setup_teardown(read__takes_the_newer_of_two_sound_states, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read__refuses_elements_that_reach_outside, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read__ends_when_many_ways_lead_to_one_page, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(read__ends_when_pages_form_a_cycle, set_up,
						tear_down),
	};
	return cmocka_run_group_tests_name("plugin/boltdb", tests, NULL, NULL);
}
