/* The view of containerd: the reconciliation on its own, and the thread against a Namespaces and a
 * Content service that play containerd. */
#include "support/content_fixture.h"

#include <pthread.h>

#include "namespaces.pb-c.h"
#include "plugin/reconcile.h"

/* ---- playing containerd -----------------------------------------------------------------------*/

struct fake {
	pthread_mutex_t mu;
	struct record {
		const char *ns;
		struct cairn_digest digest;
	} records[64];	      /* guarded by mu */
	size_t n_records;     /* guarded by mu */
	const char *appears;  /* guarded by mu: a namespace that the second question shows */
	const char *broken;   /* guarded by mu: a namespace whose Content.List fails */
	int namespaces_asked; /* guarded by mu */
	_Atomic int contents_asked;
	_Atomic bool hang; /* Content.List does not answer */
	struct cairn_rpc_server *server;
	char socket[112];
};

static enum cairn_code fake_namespaces(void *arg, struct cairn_call *call, const void *request,
				       void *response, struct cairn_err *err)
{
	(void)request;
	(void)err;
	struct fake *f = arg;
	Containerd__Services__Namespaces__V1__ListNamespacesResponse *resp = response;
	resp->namespaces = cairn_call_alloc(call, 70 * sizeof(resp->namespaces[0]));
	pthread_mutex_lock(&f->mu);
	f->namespaces_asked++;
	for (size_t i = 0; i <= f->n_records; i++) {
		bool extra = i == f->n_records;
		if (extra && (f->appears == NULL || f->namespaces_asked % 2 == 1)) continue;
		Containerd__Services__Namespaces__V1__Namespace *ns =
			cairn_call_alloc(call, sizeof(*ns));
		containerd__services__namespaces__v1__namespace__init(ns);
		ns->name = cairn_call_strdup(call, extra ? f->appears : f->records[i].ns);
		bool twice = false;
		for (size_t k = 0; k < resp->n_namespaces; k++) {
			twice |= strcmp(resp->namespaces[k]->name, ns->name) == 0;
		}
		if (!twice) resp->namespaces[resp->n_namespaces++] = ns;
	}
	pthread_mutex_unlock(&f->mu);
	return CAIRN_OK;
}

static enum cairn_code fake_content(void *arg, struct cairn_call *call, const void *request,
				    struct cairn_err *err)
{
	(void)request;
	struct fake *f = arg;
	const char *ns = cairn_call_header(call, "containerd-namespace");
	f->contents_asked++;
	if (ns == NULL) return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "namespace required");
	while (f->hang) {
		enum cairn_wake w = cairn_call_wait(call, 20);
		if (w == CAIRN_WAKE_GONE || w == CAIRN_WAKE_DRAIN) return CAIRN_OK;
	}
	pthread_mutex_lock(&f->mu);
	bool broken = f->broken != NULL && strcmp(f->broken, ns) == 0;
	struct record copy[64];
	size_t n = f->n_records;
	memcpy(copy, f->records, sizeof(copy));
	pthread_mutex_unlock(&f->mu);
	if (broken) return cairn_err_set(err, CAIRN_INTERNAL, "this one is broken");
	for (size_t i = 0; i < n; i++) {
		char digest[CAIRN_DIGEST_STR];
		Containerd__Services__Content__V1__Info info =
			CONTAINERD__SERVICES__CONTENT__V1__INFO__INIT;
		Containerd__Services__Content__V1__Info *list[1] = {&info};
		Containerd__Services__Content__V1__ListContentResponse resp =
			CONTAINERD__SERVICES__CONTENT__V1__LIST_CONTENT_RESPONSE__INIT;
		if (strcmp(copy[i].ns, ns) != 0) continue;
		cairn_digest_format(&copy[i].digest, digest);
		info.digest = digest;
		info.size = 5;
		resp.info = list;
		resp.n_info = 1;
		enum cairn_code rc = cairn_call_send(call, &resp.base, err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

static const struct cairn_method fake_methods[] = {
	{.path = "/containerd.services.namespaces.v1.Namespaces/List",
	 .request = &containerd__services__namespaces__v1__list_namespaces_request__descriptor,
	 .response = &containerd__services__namespaces__v1__list_namespaces_response__descriptor,
	 .unary = fake_namespaces},
	{.path = METHOD("List"),
	 .request = TYPE_OF(list_content_request),
	 .server_stream = fake_content},
};

static void fake_start(struct fake *f, struct node *n)
{
	OK(cairn_rpc_server_new(n->rpc, &f->server, &node_err));
	cairn_rpc_server_add(f->server, fake_methods, CAIRN_LEN(fake_methods), f);
	OK(cairn_rpc_server_listen_unix(f->server, f->socket, &node_err));
	OK(cairn_rpc_server_start(f->server, &node_err));
}

static void fake_stop(struct fake *f)
{
	if (f->server == NULL) return;
	cairn_rpc_server_drain(f->server, 5000);
	cairn_rpc_server_free(cairn_steal(&f->server));
}

static void fake_record(struct fake *f, const char *ns, const struct cairn_digest *digest)
{
	pthread_mutex_lock(&f->mu);
	f->records[f->n_records++] = (struct record){ns, *digest};
	pthread_mutex_unlock(&f->mu);
}

static void fake_forget(struct fake *f)
{
	pthread_mutex_lock(&f->mu);
	f->n_records = 0;
	pthread_mutex_unlock(&f->mu);
}

/* ---- a node with a view -----------------------------------------------------------------------*/

struct world {
	struct node *n;
	struct fake fake;
	struct cairn_runtime *rt;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	w->n = node_new(true, false);
	pthread_mutex_init(&w->fake.mu, NULL);
	snprintf(w->fake.socket, sizeof(w->fake.socket), "%s/containerd.sock", w->n->dir);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	cairn_runtime_stop(w->rt);
	fake_stop(&w->fake);
	node_free(w->n);
	free(w);
	return 0;
}

static void view_start(struct world *w, int64_t interval_ms)
{
	struct cairn_runtime_opts opts = {
		.rpc = w->n->rpc,
		.cache = w->n->cache,
		.clock = &w->n->clock,
		.address = w->fake.socket,
		.interval_ms = interval_ms,
		.retry_ms = 10,
	};
	OK(cairn_runtime_start(&opts, &w->rt, &node_err));
}

static struct cairn_runtime_status view_status(struct world *w)
{
	struct cairn_runtime_status st;
	cairn_runtime_get_status(w->rt, &st);
	return st;
}

/* Poll until cond holds; fails the test after 20 s. */
#define UNTIL(cond)                                                                                \
	do {                                                                                       \
		int64_t until_ = cairn_boot_ns(&cairn_clock_system) + 20 * CAIRN_NS_PER_S;         \
		while (!(cond)) {                                                                  \
			if (cairn_boot_ns(&cairn_clock_system) > until_) {                         \
				fail_msg("never came true: %s", #cond);                            \
			}                                                                          \
			usleep(500);                                                               \
		}                                                                                  \
	} while (0)

/* Ask for one more complete listing and wait for it. */
static void list_again(struct world *w)
{
	uint64_t before = view_status(w).listings;
	cairn_runtime_request(w->rt);
	UNTIL(view_status(w).listings > before);
}

/* A referenced blob. */
static struct cairn_digest put(struct world *w, unsigned seed)
{
	uint8_t data[100];
	char ref[64];
	fill_bytes(data, sizeof(data), seed);
	snprintf(ref, sizeof(ref), "ns/1/ref-%u", seed);
	OK(put_blob(w->n, ref, data, sizeof(data)));
	return digest_of(data, sizeof(data), CAIRN_SHA256);
}

static int state_of(struct world *w, const struct cairn_digest *digest)
{
	struct cairn_blob_info info;
	if (cairn_cache_info(w->n->cache, digest, &info, &node_err) != CAIRN_OK) return 0;
	int s = info.state;
	cairn_blob_info_fini(&info);
	return s;
}

static void set__is_sorted_unique_and_found(void **state)
{
	(void)state;
	struct cairn_digest_set set = {0};
	struct cairn_digest d[300];
	for (unsigned i = 0; i < 300; i++) {
		d[i] = digest_of(&i, sizeof(i), i % 3 == 0 ? CAIRN_SHA512 : CAIRN_SHA256);
		OK(cairn_digest_set_add(&set, &d[i], &node_err));
		if (i % 2 == 0) OK(cairn_digest_set_add(&set, &d[i], &node_err));
	}
	cairn_digest_set_sort(&set);
	assert_int_equal(cairn_digest_set_size(&set), 300);
	for (unsigned i = 0; i < 300; i++) assert_true(cairn_digest_set_has(&set, &d[i]));
	unsigned other = 1000;
	struct cairn_digest no = digest_of(&other, sizeof(other), CAIRN_SHA256);
	assert_false(cairn_digest_set_has(&set, &no));
	cairn_digest_set_fini(&set);
	assert_false(cairn_digest_set_has(&set, &no));
}

static struct cairn_listing listing_at(struct node *n, const struct cairn_digest *list,
				       size_t count)
{
	struct cairn_listing l = {.begun_boot_ns = cairn_boot_ns(&n->clock)};
	for (size_t i = 0; i < count; i++) {
		OK(cairn_digest_set_add(&l.recorded, &list[i], &node_err));
	}
	cairn_digest_set_sort(&l.recorded);
	return l;
}

static struct cairn_reconciled reconcile(struct world *w, const struct cairn_listing *before,
					 const struct cairn_listing *now)
{
	struct cairn_reconciled r;
	cairn_reconcile(w->n->cache, before, now, NULL, &r);
	cairn_digest_set_fini(&r.missing_set);
	return r;
}

static void reconcile__promotes_counts_missing_and_releases_late(void **state)
{
	struct world *w = *state;
	struct cairn_digest kept = put(w, 1), cached = put(w, 2), orphan = put(w, 3), absent = kept;
	absent.bytes[0] ^= 1;
	cairn_cache_release(w->n->cache, &cached);
	struct cairn_digest recorded[] = {kept, cached, absent};
	struct cairn_listing one = listing_at(w->n, recorded, 3);
	struct cairn_reconciled r = reconcile(w, NULL, &one);
	assert_int_equal(r.promoted, 1);
	assert_int_equal(r.missing, 1);
	assert_int_equal(r.released, 0);
	assert_int_equal(state_of(w, &cached), CAIRN_BLOB_REFERENCED);
	/* Two listings, but the first began too soon after the commit. */
	struct cairn_listing two = listing_at(w->n, recorded, 3);
	r = reconcile(w, &one, &two);
	assert_int_equal(r.promoted, 0);
	assert_int_equal(r.released, 0);
	w->n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing three = listing_at(w->n, recorded, 3);
	r = reconcile(w, &two, &three);
	assert_int_equal(r.released, 0);
	struct cairn_listing four = listing_at(w->n, recorded, 3);
	r = reconcile(w, &three, &four);
	assert_int_equal(r.released, 1);
	assert_int_equal(state_of(w, &orphan), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(w, &kept), CAIRN_BLOB_REFERENCED);
	struct cairn_listing *all[] = {&one, &two, &three, &four};
	for (size_t i = 0; i < CAIRN_LEN(all); i++) cairn_digest_set_fini(&all[i]->recorded);
}

static void reconcile__keeps_what_either_listing_has_or_info_promised(void **state)
{
	struct world *w = *state;
	struct cairn_digest seen = put(w, 1), promised = put(w, 2);
	w->n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing with = listing_at(w->n, &seen, 1), without = listing_at(w->n, NULL, 0);
	struct cairn_blob_info info;
	OK(cairn_cache_promise(w->n->cache, &promised, &info, &node_err));
	cairn_blob_info_fini(&info);
	struct cairn_reconciled r = reconcile(w, &with, &without);
	assert_int_equal(r.released, 0);
	struct cairn_listing later = listing_at(w->n, NULL, 0);
	r = reconcile(w, &without, &later);
	assert_int_equal(r.released, 1);
	assert_int_equal(state_of(w, &seen), CAIRN_BLOB_CACHED);
	assert_int_equal(state_of(w, &promised), CAIRN_BLOB_REFERENCED);
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	struct cairn_listing late = listing_at(w->n, NULL, 0);
	r = reconcile(w, &late, &late);
	assert_int_equal(r.released, 1);
	cairn_digest_set_fini(&with.recorded); /* the others are empty */
}

/* ---- the thread -------------------------------------------------------------------------------*/

static void view__waits_for_containerd_and_lists_it(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1), two = put(w, 2);
	bool known = true;
	cairn_cache_release(w->n->cache, &two);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	view_start(w, 3600000);
	UNTIL(view_status(w).failures >= 2); /* nobody is there yet */
	assert_false(view_status(w).reachable);
	assert_true(view_status(w).error[0] != '\0');
	assert_false(cairn_runtime_records(w->rt, &one, &known));
	assert_false(known);
	fake_start(&w->fake, w->n);
	UNTIL(view_status(w).listings >= 1);
	struct cairn_runtime_status st = view_status(w);
	assert_true(st.reachable);
	assert_int_equal(st.recorded, 2);
	assert_int_equal(st.missing, 0);
	assert_int_equal(st.promoted, 1);
	assert_string_equal(st.error, "");
	assert_string_equal(st.address, w->fake.socket);
	assert_true(st.last_listing_ns > 0);
	assert_int_equal(state_of(w, &two), CAIRN_BLOB_REFERENCED);
	assert_true(cairn_runtime_records(w->rt, &two, &known));
	assert_true(known);
	struct cairn_digest lost = one;
	lost.bytes[3] ^= 1;
	fake_record(&w->fake, "default", &lost);
	list_again(w);
	assert_int_equal(view_status(w).missing, 1);
	/* Away again: what is known stays, and nothing is released. */
	fake_stop(&w->fake);
	cairn_runtime_request(w->rt);
	UNTIL(!view_status(w).reachable);
	assert_int_equal(view_status(w).recorded, 3);
}

static void view__releases_orphans_after_two_listings(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1), two = put(w, 2);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	UNTIL(view_status(w).listings >= 1);
	cairn_runtime_connected(w->rt, getpid()); /* where the fake lives: it is listed at once */
	UNTIL(view_status(w).client);
	fake_forget(&w->fake); /* its database was wiped */
	w->n->skew_ns += CAIRN_RECORD_GRACE_NS + CAIRN_NS_PER_S;
	list_again(w);
	assert_int_equal(view_status(w).released, 0);
	list_again(w);
	assert_int_equal(view_status(w).released, 2);
	assert_int_equal(state_of(w, &one), CAIRN_BLOB_CACHED);
}

/* Another containerd, found at the address by mistake, records nothing of ours. */
static void view__releases_nothing_for_a_containerd_that_is_not_our_client(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1);
	fake_start(&w->fake, w->n);
	view_start(w, 3600000);
	cairn_runtime_connected(w->rt, getppid());
	UNTIL(view_status(w).listings >= 1);
	w->n->skew_ns += CAIRN_PROMISE_GRACE_NS + CAIRN_NS_PER_S;
	for (int i = 0; i < 3; i++) list_again(w);
	assert_false(view_status(w).client);
	assert_int_equal(view_status(w).released, 0);
	assert_int_equal(state_of(w, &one), CAIRN_BLOB_REFERENCED);
}

static void view__counts_only_complete_listings(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1), two = put(w, 2);
	fake_record(&w->fake, "default", &one);
	fake_record(&w->fake, "k8s.io", &two);
	fake_start(&w->fake, w->n);
	w->fake.appears = "new";
	view_start(w, 3600000);
	UNTIL(view_status(w).failures >= 2);
	assert_int_equal(view_status(w).listings, 0);
	assert_non_null(strstr(view_status(w).error, "namespace new appeared"));
	pthread_mutex_lock(&w->fake.mu);
	w->fake.appears = NULL;
	w->fake.broken = "k8s.io";
	pthread_mutex_unlock(&w->fake.mu);
	UNTIL(strstr(view_status(w).error, "this one is broken") != NULL);
	assert_int_equal(view_status(w).listings, 0);
	pthread_mutex_lock(&w->fake.mu);
	w->fake.broken = NULL;
	pthread_mutex_unlock(&w->fake.mu);
	UNTIL(view_status(w).listings >= 1);
	assert_int_equal(view_status(w).recorded, 2);
}

static void view__stops_at_once_while_containerd_hangs(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1);
	fake_record(&w->fake, "default", &one);
	fake_start(&w->fake, w->n);
	w->fake.hang = true;
	view_start(w, 3600000);
	UNTIL(w->fake.contents_asked >= 1);
	int64_t before = cairn_boot_ns(&cairn_clock_system);
	cairn_runtime_stop(cairn_steal(&w->rt));
	assert_true(cairn_boot_ns(&cairn_clock_system) - before < 3 * CAIRN_NS_PER_S);
}

static void view__with_nobody_to_ask_is_quiet(void **state)
{
	struct world *w = *state;
	struct cairn_digest one = put(w, 1);
	bool known = true;
	w->fake.socket[0] = '\0';
	view_start(w, 10);
	cairn_runtime_request(w->rt);
	assert_false(cairn_runtime_records(w->rt, &one, &known));
	assert_false(known);
	assert_null(cairn_runtime_channel(w->rt));
	struct cairn_runtime_status st = view_status(w);
	assert_string_equal(st.address, "");
	assert_int_equal(st.failures, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set__is_sorted_unique_and_found),
		TEST(reconcile__promotes_counts_missing_and_releases_late),
		TEST(reconcile__keeps_what_either_listing_has_or_info_promised),
		TEST(view__waits_for_containerd_and_lists_it),
		TEST(view__releases_orphans_after_two_listings),
		TEST(view__releases_nothing_for_a_containerd_that_is_not_our_client),
		TEST(view__counts_only_complete_listings),
		TEST(view__stops_at_once_while_containerd_hangs),
		TEST(view__with_nobody_to_ask_is_quiet),
	};
	return cmocka_run_group_tests_name("plugin/runtime", tests, NULL, NULL);
}
