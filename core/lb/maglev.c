/* The walk of Pseudocode 1 of the Maglev paper (Eisenbud et al., NSDI 2016, section 3.4): core/lb/maglev_walk.py in C, for speed alone.
 * Plain C without a library, called by core/lb/maglev_native.py. */
#include <stdint.h>

/* Fills entry[0..M) with the numbers of slots. Turn t is that of slot order[t mod turns]. The permutation of slot i begins at next[i],
 * which is moved on, and goes on by skip[i] mod M. All numbers are below 2^31, M is prime, 0 <= next[i] < M, 0 < skip[i] < M.
 * With other arguments or another meaning of them it must have another name: an object of before must not be called. */
void tidegate_maglev_walk_1(uint32_t M, const uint32_t *order, uint32_t turns, uint32_t *next, const uint32_t *skip, int32_t *entry)
{
	for (uint32_t c = 0; c < M; c++)
		entry[c] = -1;
	for (uint32_t filled = 0, t = 0; filled < M; filled++) {
		uint32_t i = order[t], c = next[i];
		while (entry[c] >= 0)
			if ((c += skip[i]) >= M)
				c -= M;
		entry[c] = (int32_t)i;
		next[i] = c;
		if (++t == turns)
			t = 0;
	}
}
