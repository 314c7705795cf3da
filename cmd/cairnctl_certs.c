/* cairnctl certs: an authority and certificates for the nodes of one cluster. Needs no cairnd. */
#include "cmd/cairnctl_certs.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cairnctl.h"

#define DNS_MAX 253
#define CA_DAYS 3650
#define NODE_DAYS 365

/* "DNS:" or "IP:", a name, a comma. */
#define ALTS_BYTES (CERTS_ALTS_MAX * (DNS_MAX + 6))

struct args {
	const char *dir, *name, *out;
	int days; /* 0: not said */
	bool force, admin;
	size_t n_alts;
	char alts[ALTS_BYTES];
};

/* Letters, digits, '-' and '.', and none of the last two at an end: a host's name, safe as a
 * file's and within OpenSSL's list of names. */
static bool is_host_name(const char *name, size_t max)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
	size_t n = strlen(name);
	return n > 0 && n <= max && strspn(name, ok) == n && strchr("-.", name[0]) == NULL &&
	       strchr("-.", name[n - 1]) == NULL && strstr(name, "..") == NULL;
}

static bool is_address(const char *text)
{
	struct in6_addr ignored;
	return inet_pton(AF_INET, text, &ignored) == 1 || inet_pton(AF_INET6, text, &ignored) == 1;
}

static void add_alt(struct args *args, const char *kind, const char *name)
{
	size_t at = strlen(args->alts);
	snprintf(args->alts + at, sizeof(args->alts) - at, "%s%s:%s", at > 0 ? "," : "", kind,
		 name);
	args->n_alts++;
}

/* Of the authority: any text that a terminal can show. */
static bool is_text(const char *name)
{
	size_t n = strlen(name);
	bool well = n > 0 && n <= CERTS_NAME_MAX;
	for (size_t i = 0; well && i < n; i++) well = name[i] >= ' ' && name[i] <= '~';
	return well;
}

/* 0, or the exit status. */
static int take_option(struct ctl *ctl, struct args *args, int option)
{
	char *end;
	long days;
	switch (option) {
	case 'd':
		args->dir = optarg;
		return 0;
	case 'n':
		args->name = optarg;
		return 0;
	case 'o':
		args->out = optarg;
		return 0;
	case 'a':
		args->admin = true;
		return 0;
	case 'f':
		args->force = true;
		return 0;
	case 't':
		days = strtol(optarg, &end, 10);
		if (optarg[0] < '0' || optarg[0] > '9' || *end != '\0' || days < 1 ||
		    days > CERTS_DAYS_MAX) {
			return ctl_usage(ctl, "--days is 1 to %d, not \"%s\"", CERTS_DAYS_MAX,
					 optarg);
		}
		args->days = (int)days;
		return 0;
	default:
		break;
	}
	if (args->n_alts == CERTS_ALTS_MAX) {
		return ctl_usage(ctl, "--dns and --ip: at most %d of them", CERTS_ALTS_MAX);
	}
	if (option == 's' ? !is_host_name(optarg, DNS_MAX) : !is_address(optarg)) {
		return ctl_usage(ctl, "%s: \"%s\" is not %s", option == 's' ? "--dns" : "--ip",
				 optarg, option == 's' ? "a host's name" : "an IP address");
	}
	add_alt(args, option == 's' ? "DNS" : "IP", optarg);
	return 0;
}

static int told(struct ctl *ctl, const char *name, const struct certs_made *made)
{
	char end[32];
	struct tm tm;
	gmtime_r(&made->not_after, &tm);
	strftime(end, sizeof(end), "%Y-%m-%dT%H:%M:%SZ", &tm);
	if (ctl->json) {
		ctl_print_json(json_pack("{s:s, s:o, s:o, s:s}", "name", name, "cert",
					 ctl_json_text(made->cert), "key", ctl_json_text(made->key),
					 "not_after", end));
		return CTL_DONE;
	}
	ctl_print_field(ctl, "certificate", made->cert);
	ctl_print_field(ctl, "key", made->key);
	ctl_print_field(ctl, "good until", end);
	return CTL_DONE;
}

static int init(struct ctl *ctl, const struct args *args)
{
	struct certs_made made;
	struct cairn_err err;
	const char *name = args->name != NULL ? args->name : "cairn cluster";
	if (args->n_alts > 0 || args->out != NULL || args->force || args->admin) {
		return ctl_usage(ctl, "certs init takes --dir, --name and --days alone");
	}
	if (!is_text(name)) {
		return ctl_usage(ctl, "--name is 1 to %d printable ASCII characters",
				 CERTS_NAME_MAX);
	}
	enum cairn_code rc =
		certs_init(args->dir, name, args->days != 0 ? args->days : CA_DAYS, &made, &err);
	return rc == CAIRN_OK ? told(ctl, name, &made) : ctl_fail(ctl, &err);
}

static int issue(struct ctl *ctl, const struct args *args)
{
	struct certs_made made;
	struct cairn_err err;
	if (args->name == NULL) return ctl_usage(ctl, "certs issue needs --name NODE");
	if (args->admin && args->n_alts > 0) {
		return ctl_usage(ctl, "an admin's certificate has one name: --dns and --ip are "
				      "for nodes");
	}
	if (!is_host_name(args->name, CERTS_NAME_MAX)) {
		return ctl_usage(
			ctl, "--name is a node's host name of at most %d characters, not \"%s\"",
			CERTS_NAME_MAX, args->name);
	}
	if (strcmp(args->name, "ca") == 0) {
		return ctl_usage(ctl, "a node cannot be called \"ca\": its files would have the "
				      "names of the authority's");
	}
	char *alts; /* the first DNS name is what other nodes show */
	if (asprintf(&alts, "DNS:%s%s%s", args->name, args->n_alts > 0 ? "," : "", args->alts) <
	    0) {
		abort();
	}
	const struct certs_request request = {
		.dir = args->dir,
		.out = args->out != NULL ? args->out : args->dir,
		.name = args->name,
		.alts = alts,
		.days = args->days != 0 ? args->days : NODE_DAYS,
		.admin = args->admin,
		.replace = args->force,
	};
	enum cairn_code rc = certs_issue(&request, &made, &err);
	free(alts);
	return rc == CAIRN_OK ? told(ctl, args->name, &made) : ctl_fail(ctl, &err);
}

static int run(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{"dir", required_argument, NULL, 'd'},
					    {"name", required_argument, NULL, 'n'},
					    {"days", required_argument, NULL, 't'},
					    {"dns", required_argument, NULL, 's'},
					    {"ip", required_argument, NULL, 'i'},
					    {"out", required_argument, NULL, 'o'},
					    {"force", no_argument, NULL, 'f'},
					    {"admin", no_argument, NULL, 'a'},
					    {0}};
	static struct args args; /* static: large */
	for (int c; (c = ctl_getopt(ctl, argc, argv, own)) != -1;) {
		int status = take_option(ctl, &args, c);
		if (status != 0) return status;
	}
	if (optind + 1 != argc) return ctl_usage(ctl, "certs init, or certs issue?");
	if (args.dir == NULL || args.dir[0] == '\0') {
		return ctl_usage(ctl, "certs needs --dir, the authority's folder");
	}
	if (strcmp(argv[optind], "init") == 0) return init(ctl, &args);
	if (strcmp(argv[optind], "issue") == 0) return issue(ctl, &args);
	return ctl_usage(ctl, "certs init, or certs issue, not \"%s\"", argv[optind]);
}

const struct ctl_verb ctl_certs = {
	.name = "certs",
	.arguments = "init|issue --dir DIR [OPTIONS]",
	.summary = "make an authority and certificates for the nodes of a cluster",
	.help = "init makes an authority, DIR/ca.pem and DIR/ca.key; issue makes a node's "
		"certificate\n"
		"and key, NAME.pem and NAME.key. Keep ca.key away from the nodes. cairnd need not "
		"run\n"
		"for this.\n\n"
		"  --dir DIR    the authority's folder; init makes it\n"
		"  --name NAME  init: what the authority is called (default \"cairn cluster\");\n"
		"               issue: the node's host name\n"
		"  --days N     how long it is good (default: init 3650, issue 365)\n"
		"  --dns NAME   issue: another host name of the node; may be repeated\n"
		"  --ip IP      issue: an address of the node; may be repeated\n"
		"  --admin      issue: a certificate for one who calls nodes from elsewhere (see\n"
		"               --address), not for a node; NAME is what p2p.admins has to name\n"
		"  --out DIR    issue: where the files go (default: the authority's folder)\n"
		"  --force      issue: replace files that are there, to renew a certificate",
	.run = run,
};
