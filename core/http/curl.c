// SPDX-License-Identifier: Apache-2.0
#include "http/curl.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* As the build has found it; this is its name where nobody has looked. */
#ifndef FC_CURL_SONAME
#define FC_CURL_SONAME "libcurl.so.4"
#endif

struct fch_curl fch_curl;

static CURLcode code;
static char missing[256]; /* what the loader said, or empty */

static bool look_up(void *library, const char *name, void *ret_function) {
	void *function = dlsym(library, name);
	if (function)
		memcpy(ret_function, &function, sizeof function);
	return function != NULL;
}

static void load(void) {
	bool found = true;
	/* Never unloaded: its own libraries could not be. */
	void *library = dlopen(FC_CURL_SONAME, RTLD_NOW | RTLD_LOCAL);
#define F(name) found = found && library && look_up(library, "curl_" #name, &fch_curl.name);
	FCH_CURL_FUNCTIONS(F)
#undef F
	if (found) {
		code = fch_curl.global_init(CURL_GLOBAL_ALL);
		return;
	}
	const char *words = dlerror();
	snprintf(missing, sizeof missing, "%s", words ? words : "a function is missing");
}

int fch_curl_load(struct fc_error *error) {
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, load);
	if (missing[0])
		return fc_error_set(error, ENOENT, "load", FC_CURL_SONAME, "install libcurl", "%s", missing);
	if (code != CURLE_OK)
		return fc_error_set(error, code == CURLE_OUT_OF_MEMORY ? ENOMEM : EIO, "start libcurl", NULL, NULL,
		                    "%s", fch_curl.easy_strerror(code));
	return 0;
}
