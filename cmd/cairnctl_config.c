/* cairnctl containerd-config: what to put in containerd's config.toml. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"

enum family { CONTAINERD_1_6, CONTAINERD_1_7, CONTAINERD_2 };

static const char *const names[] = {"1.6", "1.7", "2.x"};

static bool family_of(const char *text, enum family *ret)
{
	int major, minor;
	if (!ctl_parse_version(text, &major, &minor)) return false;
	if (major == 1 && minor == 6) {
		*ret = CONTAINERD_1_6;
	} else if (major == 1 && minor == 7) {
		*ret = CONTAINERD_1_7;
	} else if (major == 2) {
		*ret = CONTAINERD_2;
	} else {
		return false;
	}
	return true;
}

/* Ask the containerd that is installed. */
static bool ask_installed(char *buf, size_t cap)
{
	FILE *out = popen("containerd --version 2>/dev/null", "re");
	if (out == NULL) return false;
	size_t n = fread(buf, 1, cap - 1, out);
	buf[n] = '\0';
	return pclose(out) == 0 && n > 0;
}

static const char both_1[] =
	"# containerd's own content store must be off: with both on, containerd 1.x uses one of\n"
	"# them, usually its own, and says nothing. If the file has this key already, add to that\n"
	"# list; a key may appear only once, and only above the first [table].\n";
static const char both_2[] =
	"# containerd's own content store must be off: with both on, containerd 2.x fails with\n"
	"# \"multiple plugins\" and starts without images. If the file has this key already, add "
	"to\n"
	"# that list; a key may appear only once, and only above the first [table].\n";

static char *config_text(const struct ctl *ctl, enum family family)
{
	char *text = NULL;
	int n = asprintf(
		&text,
		"# For containerd %s, in /etc/containerd/config.toml: cairn as content store.\n"
		"# Images that are on the node already are moved first: man cairnctl, SWITCHING.\n"
		"# Afterwards: systemctl restart containerd, and look that\n"
		"#   ctr plugins ls | grep io.containerd.content\n"
		"# has one line, with \"cairn\" and \"ok\".\n"
		"\n"
		"# Keep the version that the file has, if that is %s.\n"
		"version = %s\n"
		"\n"
		"%s"
		"disabled_plugins = [\"io.containerd.content.v1.content\"]\n"
		"\n"
		"# The name after proxy_plugins is free, but must not be \"content\": that is the "
		"name "
		"of\n"
		"# containerd's own.\n"
		"[proxy_plugins.cairn]\n"
		"  type = \"content\"\n"
		"  address = \"%s\"\n"
		"\n"
		"# cairnd must listen before containerd starts. With systemd, put these lines "
		"into\n"
		"# /etc/systemd/system/containerd.service.d/cairn.conf, then systemctl "
		"daemon-reload:\n"
		"#   [Unit]\n"
		"#   Wants=cairnd.service\n"
		"#   After=cairnd.service\n",
		names[family], family == CONTAINERD_2 ? "2 or higher" : "2",
		family == CONTAINERD_2 ? "3" : "2", family == CONTAINERD_2 ? both_2 : both_1,
		ctl->socket);
	if (n < 0) abort();
	return text;
}

static int run(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{"containerd-version", required_argument, NULL, 'v'},
					    {0}};
	const char *told = NULL;
	char found[256] = "";
	enum family family;
	while (ctl_getopt(ctl, argc, argv, own) != -1) told = optarg;
	if (optind != argc) return ctl_usage(ctl, "containerd-config takes no arguments");
	if (told != NULL && !family_of(told, &family)) {
		return ctl_usage(ctl, "--containerd-version is 1.6, 1.7 or 2.x, not \"%s\"", told);
	}
	if (told == NULL && !ask_installed(found, sizeof(found))) {
		struct cairn_err err;
		cairn_err_set(&err, CAIRN_NOT_FOUND,
			      "`containerd --version` does not work here; say which one is meant "
			      "with --containerd-version 1.6, 1.7 or 2.x");
		return ctl_fail(ctl, &err);
	}
	if (told == NULL && !family_of(found, &family)) {
		struct cairn_err err;
		found[strcspn(found, "\n")] = '\0';
		cairn_err_set(&err, CAIRN_FAILED_PRECONDITION,
			      "the containerd that is installed (%s) is none of 1.6, 1.7 and 2.x, "
			      "which cairn knows; --containerd-version says which one to assume",
			      found);
		return ctl_fail(ctl, &err);
	}
	char *text = config_text(ctl, family);
	if (ctl->json) {
		ctl_print_json(json_pack("{s:s, s:s}", "version", names[family], "config", text));
	} else {
		fputs(text, stdout);
	}
	free(text);
	return CTL_DONE;
}

const struct ctl_verb ctl_containerd_config = {
	.name = "containerd-config",
	.arguments = "[--containerd-version 1.6|1.7|2.x]",
	.summary = "print what to put into containerd's config.toml",
	.help = "Prints the lines that make containerd use cairn, for the containerd that is "
		"installed\n"
		"or for the version given. --socket is the address that is written into it. "
		"cairnd\n"
		"need not run for this.",
	.run = run,
};
