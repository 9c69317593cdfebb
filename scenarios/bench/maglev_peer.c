/* Pseudocode 1 of the Maglev paper, as one would write it in C: the peer of `tidegate bench tables`. It shares nothing with core/lb/maglev.c.
 *
 * Reads "slots M greatest-weight", then for each slot "offset skip weight". Then, for each "compute", computes the table and prints the CPU
 * nanoseconds; for "show", prints the table. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int n, M, greatest, *offset, *skip, *weight, *next, *due;
static int32_t *entry;

static void equal_turns(void)
{
	for (int filled = 0;;) {
		for (int i = 0; i < n; i++) {
			int c = next[i];
			while (entry[c] >= 0)
				if ((c += skip[i]) >= M)
					c -= M;
			entry[c] = i;
			next[i] = c;
			if (++filled == M)
				return;
		}
	}
}

static void weighted_turns(void)
{
	memset(due, 0, n * sizeof *due);
	for (int filled = 0;;) {
		for (int i = 0; i < n; i++) {
			if ((due[i] += weight[i]) < greatest)
				continue;
			due[i] -= greatest;
			int c = next[i];
			while (entry[c] >= 0)
				if ((c += skip[i]) >= M)
					c -= M;
			entry[c] = i;
			next[i] = c;
			if (++filled == M)
				return;
		}
	}
}

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void)
{
	int weighted = 0;
	char word[16];
	if (scanf("%d %d %d", &n, &M, &greatest) != 3)
		return 1;
	offset = malloc(n * sizeof *offset), skip = malloc(n * sizeof *skip), weight = malloc(n * sizeof *weight);
	next = malloc(n * sizeof *next), due = malloc(n * sizeof *due), entry = malloc(M * sizeof *entry);
	for (int i = 0; i < n; i++) {
		if (scanf("%d %d %d", offset + i, skip + i, weight + i) != 3)
			return 1;
		weighted |= weight[i] != greatest;
	}
	while (scanf("%15s", word) == 1) {
		if (strcmp(word, "compute") == 0) {
			long long begin_ns = now_ns();
			memcpy(next, offset, n * sizeof *next);
			memset(entry, 0xff, M * sizeof *entry);
			if (weighted)
				weighted_turns();
			else
				equal_turns();
			printf("%lld", now_ns() - begin_ns);
		} else {
			for (int c = 0; c < M; c++)
				printf("%d ", entry[c]);
		}
		printf("\n");
		fflush(stdout);
	}
	return 0;
}
