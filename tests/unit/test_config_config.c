#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "config/key.h"
#include "support/tmp.h"

static enum cairn_code parse(const char *text, struct cairn_config *ret, struct cairn_err *err)
{
	return cairn_config_parse("test.yaml", text, strlen(text), ret, err);
}

static void parse__empty_file_is_a_working_node(void **state)
{
	(void)state;
	static const char *const empty[] = {"", "\n# nothing\n", "---\n", "{}\n", "~\n"};
	for (size_t i = 0; i < CAIRN_LEN(empty); i++) {
		struct cairn_config c;
		struct cairn_err err;
		assert_int_equal(parse(empty[i], &c, &err), CAIRN_OK);
		assert_string_equal(c.state_dir, "/var/lib/cairn");
		assert_string_equal(c.listen, "/run/cairn/cairn.sock");
		assert_int_equal(c.drain, 10000);
		assert_string_equal(c.containerd.address, "/run/containerd/containerd.sock");
		assert_true(c.containerd.prefill);
		assert_false(c.containerd.sharing_by_namespace);
		assert_int_equal(c.gc.interval, 15 * 60 * 1000);
		assert_true(c.gc.high_watermark.is_percent);
		assert_int_equal(c.gc.high_watermark.value, 80);
		assert_int_equal(c.p2p.min_rate, 1 << 20);
		assert_int_equal(c.p2p.share.allow.n, 1);
		assert_string_equal(c.http.listen, "127.0.0.1:7480");
		assert_int_equal(c.log_level, CAIRN_LOG_INFO);
		cairn_config_fini(&c);
	}
}

/* The whole of the documented example, with other values than the defaults. */
static const char everything[] =
	"version: 1\n"
	"state_dir: /data/cairn\n"
	"listen: /tmp/c.sock\n"
	"drain: 1m30s\n"
	"node: {name: \"n1\", labels: {zone: a, \"rack\": \"7\"}}\n"
	"containerd:\n"
	"  address: \"\"\n"
	"  prefill: false\n"
	"  swarm_wait: false\n"
	"  sharing: namespace\n"
	"gc:\n"
	"  interval: 2s\n"
	"  keep_storage: 1h\n"
	"  high_watermark: 200GiB\n"
	"  low_watermark: 150GiB\n"
	"  min_free: 5%\n"
	"  keep_versions: 3\n"
	"  keep_versions_for: 1h\n"
	"  log: /var/log/x\n"
	"p2p:\n"
	"  listen: \"[::1]:7000\"\n"
	"  advertise: host:7000\n"
	"  tls: {ca: /a, cert: /b, key: /c}\n"
	"  admins: [a, b]\n"
	"  fleet: \"off\"\n"
	"  directory: etcd\n"
	"  peers: [h:1]\n"
	"  etcd: {endpoints: [https://e:1, https://e:2/], prefix: /x/, ca: /a, cert: /b, key: /c}\n"
	"  share: {allow: [\"r/*\"], deny: [\"r/secret\"]}\n"
	"  upload_limit: 10MiB\n"
	"  download_limit: 5\n"
	"  decide: 30ms\n"
	"  stall: 6s\n"
	"  min_rate: 2MB\n"
	"  max_grants: 4\n"
	"registries:\n"
	"  docker_config: /d.json\n"
	"  hosts: [{host: \"r:5000\", plain_http: true, ca: \"\", mirrors: [http://m]}, {host: "
	"q}]\n"
	"http: {listen: \"\"}\n"
	"log: {level: debug}\n";

static void parse__takes_every_key(void **state)
{
	(void)state;
	struct cairn_config c;
	struct cairn_err err;
	assert_int_equal(parse(everything, &c, &err), CAIRN_OK);
	assert_string_equal(c.state_dir, "/data/cairn");
	assert_int_equal(c.drain, 90000);
	assert_int_equal(c.node.labels.n, 2);
	assert_string_equal(c.node.labels.items[1].value, "7");
	assert_string_equal(c.containerd.address, "");
	assert_true(c.containerd.sharing_by_namespace);
	assert_int_equal(c.gc.interval, 2000);
	assert_false(c.gc.high_watermark.is_percent);
	assert_true(c.gc.high_watermark.value == UINT64_C(200) << 30);
	assert_int_equal(c.gc.min_free.value, 5);
	assert_true(c.p2p.fleet_off);
	assert_true(c.p2p.directory_etcd);
	assert_int_equal(c.p2p.etcd.endpoints.n, 2);
	assert_string_equal(c.p2p.share.allow.items[0], "r/*");
	assert_int_equal(c.p2p.min_rate, 2000000);
	assert_int_equal(c.registries.n_hosts, 2);
	assert_true(c.registries.hosts[0].plain_http);
	assert_string_equal(c.registries.hosts[0].mirrors.items[0], "http://m");
	assert_string_equal(c.http.listen, "");
	assert_int_equal(c.log_level, CAIRN_LOG_DEBUG);
	cairn_config_fini(&c);
}

static void parse__lets_others_in_only_with_tls(void **state)
{
	(void)state;
	static const char *const good[] = {
		"p2p: {listen: \"127.0.0.1:0\"}\n",
		"p2p: {listen: \"127.9.8.7:7400\"}\n",
		"p2p: {listen: \"localhost:7400\"}\n",
		"p2p: {listen: \"[::1]:7400\", peers: [\"a.example:1\", \"[::1]:7401\"]}\n",
		"p2p: {listen: \"[::]:7400\", tls: {ca: /a, cert: /b, key: /c}}\n",
		"p2p: {listen: \"127.0.0.1:1\", directory: etcd, etcd: {endpoints: "
		"[\"e:2379\"]}}\n",
	};
	for (size_t i = 0; i < CAIRN_LEN(good); i++) {
		struct cairn_config c;
		struct cairn_err err;
		if (parse(good[i], &c, &err) != CAIRN_OK) fail_msg("%s: %s", good[i], err.msg);
		cairn_config_fini(&c);
	}
}

/* Only who sets it is told that a floor can never be kept. */
static void parse__takes_any_high_watermark_alone(void **state)
{
	(void)state;
	struct cairn_config c;
	struct cairn_err err = {0};
	assert_int_equal(parse("gc: {high_watermark: 95%}\n", &c, &err), CAIRN_OK);
	cairn_config_fini(&c);
	assert_int_equal(parse("gc: {high_watermark: 95%, min_free: 10%}\n", &c, &err),
			 CAIRN_INVALID_ARGUMENT);
}

static void parse__refuses_and_names_place_key_and_allowed(void **state)
{
	(void)state;
	static const struct {
		const char *text, *says[3];
	} bad[] = {
		{"colour: red\n", {"test.yaml:1:", "unknown key colour"}},
		{"\ngc:\n  intervall: 1s\n", {"test.yaml:3:", "unknown key gc.intervall"}},
		{"gc: {interval: 1ms}\n", {"gc.interval", "1s to 24h", "\"1ms\""}},
		{"gc: {interval: 5}\n", {"gc.interval", "1s to 24h"}},
		{"gc: {interval: [1s]}\n", {"gc.interval is a list"}},
		{"gc: 5\n", {"gc", "a map of keys"}},
		{"gc: {keep_versions: -1}\n", {"gc.keep_versions", "0 to 1000"}},
		{"gc: {keep_versions: \"2\"}\n", {"gc.keep_versions", "0 to 1000"}},
		{"gc: {keep_versions: 99999999999999999999}\n", {"gc.keep_versions"}},
		{"gc: {high_watermark: 101%}\n", {"gc.high_watermark", "0% to 100%"}},
		{"gc: {high_watermark: 10%, low_watermark: 20%}\n", {"gc.low_watermark"}},
		{"gc: {high_watermark: 200GiB}\n",
		 {"gc.high_watermark", "gc.low_watermark", "both"}},
		{"gc: {low_watermark: 20GiB}\n", {"gc.low_watermark", "a share", "both"}},
		{"gc: {min_free: 21%}\n", {"gc.min_free", "at most 20%"}},
		{"gc: {keep_storage: soon}\n", {"gc.keep_storage", "0s to 87600h"}},
		{"gc: {keep_versions_for: -3h}\n", {"gc.keep_versions_for", "0s to 87600h"}},
		{"drain: 11m\n", {"drain", "0s to 10m"}},
		{"drain:\n", {"drain is empty"}},
		{"state_dir: var/lib\n", {"state_dir", "an absolute path"}},
		{"listen: \"\"\n", {"listen", "an absolute path"}},
		{"containerd: {prefill: yes}\n", {"containerd.prefill", "true or false"}},
		{"containerd: {prefill: \"true\"}\n", {"containerd.prefill", "true or false"}},
		{"containerd: {sharing: nod}\n", {"containerd.sharing", "node|namespace"}},
		{"http: {listen: \"localhost\"}\n", {"http.listen", "host:port"}},
		{"http: {listen: \"a:99999\"}\n", {"http.listen", "65535"}},
		{"log: {level: loud}\n", {"log.level", "debug, info, warn or error"}},
		{"version: 2\n", {"version", "allowed: 1"}},
		{"p2p: {admins: a}\n", {"p2p.admins", "list"}},
		{"p2p: {admins: [{a: b}]}\n", {"p2p.admins"}},
		{"p2p: {admins: [a]}\n", {"p2p.tls is not set", "p2p.admins"}},
		{"p2p: {admins: [a, \"\"]}\n", {"p2p.admins", "empty"}},
		{"p2p: {admins: [\"a\\nb\"]}\n", {"entry 1 of p2p.admins"}},
		{"p2p: {admins: [\" a\"]}\n", {"entry 1 of p2p.admins"}},
		{"node: {labels: [a]}\n", {"node.labels"}},
		{"p2p: {min_rate: 20000000TiB}\n", {"p2p.min_rate"}},
		{"registries: {hosts: [{plain_http: true}]}\n", {"registries.hosts", "host"}},
		{"registries: {hosts: [{host: a, x: b}]}\n", {"registries.hosts.x"}},
		{"p2p: {listen: \"0.0.0.0:7400\"}\n", {"p2p.listen", "p2p.tls", "127.0.0.1"}},
		{"p2p: {listen: \":7400\"}\n", {"p2p.listen", "0.0.0.0:7400"}},
		{"p2p: {listen: \"128.0.0.1:1\"}\n", {"p2p.listen"}},
		{"p2p: {listen: \"[::2]:1\"}\n", {"p2p.listen"}},
		{"p2p: {tls: {ca: /a, cert: /b}}\n", {"p2p.tls.key is not set", "none"}},
		{"p2p: {tls: {key: /a, cert: /b}}\n", {"p2p.tls.ca is not set"}},
		{"p2p: {tls: {ca: /a, key: /b}}\n", {"p2p.tls.cert is not set"}},
		{"p2p: {directory: etcd}\n", {"p2p.etcd.endpoints is not set"}},
		{"p2p: {etcd: {endpoints: [\"e:2379\", \"ftp://e:2379\"]}}\n",
		 {"entry 2 of p2p.etcd.endpoints", "https://host:port"}},
		{"p2p: {etcd: {endpoints: [\"https://e\"]}}\n", {"p2p.etcd.endpoints"}},
		{"p2p: {etcd: {endpoints: [\"https://u:p@e:2379\"]}}\n", {"without a user"}},
		{"p2p: {etcd: {endpoints: [\"http://e:2379\"], ca: /a}}\n",
		 {"p2p.etcd.endpoints", "plain http", "p2p.etcd.ca"}},
		{"p2p: {etcd: {endpoints: [\"https://e:2379\"], ca: /a, cert: /b}}\n",
		 {"p2p.etcd.key is not set"}},
		{"p2p: {etcd: {key: /b}}\n", {"p2p.etcd.cert is not set"}},
		{"p2p: {peers: [node1]}\n", {"p2p.peers", "\"node1\"", "host:port"}},
		{"p2p: {peers: [\"node1:0\"]}\n", {"p2p.peers", "1 to 65535"}},
		{"p2p: {peers: [\":7400\"]}\n", {"p2p.peers"}},
		{"p2p: {advertise: \":7400\"}\n", {"p2p.advertise", "host:port"}},
		{"drain: 1s\ndrain: 2s\n", {"test.yaml:2:", "given twice", "line 1"}},
		{"drain: &a 1s\n", {"anchors"}},
		{"drain: *a\n", {"aliases"}},
		{"drain: !!str 1s\n", {"tags"}},
		{"a: 1\n--- \nb: 1\n", {"unknown key a", ""}},
		{"drain: 1s\n---\ndrain: 1s\n", {"more than one document"}},
		{"- a\n", {"the file is a list"}},
		{"a: [1\n", {"not valid YAML"}},
		{"{[a]: b}\n", {"a key must be a plain name"}},
		{"a: [[[[[[[[[[1]]]]]]]]]]\n", {"nest too deep"}},
	};
	for (size_t i = 0; i < CAIRN_LEN(bad); i++) {
		struct cairn_config c;
		struct cairn_err err = {0};
		enum cairn_code rc = parse(bad[i].text, &c, &err);
		if (rc != CAIRN_INVALID_ARGUMENT) fail_msg("taken: %s", bad[i].text);
		for (size_t k = 0; k < 3 && bad[i].says[k] != NULL; k++) {
			if (strstr(err.msg, bad[i].says[k]) != NULL) continue;
			if (k == 0 && strstr(bad[i].text, "---") != NULL) continue;
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, err.msg,
				 bad[i].says[k]);
		}
		assert_non_null(strstr(err.msg, "test.yaml"));
	}
}

static void parse__bounds_what_it_reads(void **state)
{
	(void)state;
	struct cairn_config c;
	struct cairn_err err;
	size_t len = CAIRN_CONFIG_BYTES_MAX + 1;
	char *text = malloc(len);
	memset(text, '#', len);
	assert_int_equal(cairn_config_parse("t", text, len, &c, &err), CAIRN_INVALID_ARGUMENT);
	assert_int_equal(cairn_config_parse("t", text, len - 1, &c, &err), CAIRN_OK);
	cairn_config_fini(&c);
	memset(text, '[', len - 1);
	assert_int_equal(cairn_config_parse("t", text, len - 1, &c, &err), CAIRN_INVALID_ARGUMENT);
	free(text);
	assert_int_equal(cairn_config_parse("t", "a\0b", 3, &c, &err), CAIRN_INVALID_ARGUMENT);
}

static void load__reads_a_file_and_says_when_there_is_none(void **state)
{
	(void)state;
	struct cairn_config c;
	struct cairn_err err;
	assert_int_equal(cairn_config_load("/nowhere/cairn.yaml", &c, &err), CAIRN_NOT_FOUND);
	assert_non_null(strstr(err.msg, "/nowhere/cairn.yaml"));
	assert_int_not_equal(cairn_config_load("/", &c, &err), CAIRN_OK);
	char path[256];
	tmp_template(path, sizeof(path), "config");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "drain: 3s\n", 10), 10);
	close(fd);
	assert_int_equal(cairn_config_load(path, &c, &err), CAIRN_OK);
	assert_int_equal(c.drain, 3000);
	cairn_config_fini(&c);
	unlink(path);
}

/* ---- reading it again */

static void table__says_of_every_key_when_it_acts(void **state)
{
	(void)state;
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		const struct key *key = &cairn_config_keys[i];
		if (key->acts < RESTART || key->acts > RELOAD) fail_msg("%s does not", key->path);
	}
}

struct differences {
	size_t n, reloads;
};

static void count_difference(void *arg, const char *key, bool reloads)
{
	struct differences *d = arg;
	d->n++;
	d->reloads += reloads;
	assert_non_null(key);
}

static void diff__finds_every_key_and_exchange_moves_what_may_change(void **state)
{
	(void)state;
	struct cairn_config a, b;
	struct cairn_err err;
	struct differences first = {0}, none = {0};
	size_t reloads = 0;
	assert_int_equal(parse(everything, &a, &err), CAIRN_OK);
	assert_int_equal(parse("", &b, &err), CAIRN_OK);
	for (size_t i = 0; i < cairn_config_n_keys; i++) {
		reloads += cairn_config_keys[i].acts == RELOAD;
	}
	assert_int_equal(cairn_config_diff(&a, &a, count_difference, &none), 0);
	assert_int_equal(none.n, 0);
	assert_int_equal(cairn_config_diff(&a, &b, count_difference, &first), reloads);
	assert_int_equal(first.reloads, reloads);
	assert_int_equal(first.n, cairn_config_n_keys - 1); /* version has one value only */
	const char *dir = a.state_dir;
	cairn_config_exchange(&a, &b);
	assert_ptr_equal(a.state_dir, dir);
	assert_int_equal(a.gc.interval, 15 * 60 * 1000);
	assert_int_equal(a.p2p.peers.n, 0);
	assert_int_equal(a.log_level, CAIRN_LOG_INFO);
	assert_true(b.p2p.peers.n > 0);
	assert_int_equal(cairn_config_diff(&a, &b, NULL, NULL), reloads);
	cairn_config_fini(&a);
	cairn_config_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse__empty_file_is_a_working_node),
		cmocka_unit_test(parse__takes_every_key),
		cmocka_unit_test(parse__refuses_and_names_place_key_and_allowed),
		cmocka_unit_test(parse__takes_any_high_watermark_alone),
		cmocka_unit_test(parse__lets_others_in_only_with_tls),
		cmocka_unit_test(parse__bounds_what_it_reads),
		cmocka_unit_test(load__reads_a_file_and_says_when_there_is_none),
		cmocka_unit_test(table__says_of_every_key_when_it_acts),
		cmocka_unit_test(diff__finds_every_key_and_exchange_moves_what_may_change),
	};
	return cmocka_run_group_tests_name("config/config", tests, NULL, NULL);
}
