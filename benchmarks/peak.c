/* What the processor's registers allow: independent multiply-adds, no memory. One line of JSON.
 *
 *   cc -O2 -march=native -pthread peak.c -o peak && ./peak THREADS
 */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHAINS 16
#define ROUNDS 40000000L

static volatile float sink;

static void *run_float32(void *unused) {
  (void)unused;
  __m512 acc[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ps((float)i);
  for (long r = 0; r < ROUNDS; r++)
    for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
  for (int i = 1; i < CHAINS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  sink = _mm512_reduce_add_ps(acc[0]);
  return NULL;
}

#ifdef __AVX512BF16__
static void *run_bfloat16(void *unused) {
  (void)unused;
  __m512 acc[CHAINS];
  __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f003f00), b = (__m512bh)_mm512_set1_epi32(0x3f013f01);
  for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ps((float)i);
  for (long r = 0; r < ROUNDS; r++)
    for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_dpbf16_ps(acc[i], a, b);
  for (int i = 1; i < CHAINS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  sink = _mm512_reduce_add_ps(acc[0]);
  return NULL;
}
#endif

static double gflops(void *(*work)(void *), int threads, double flops_per_instruction) {
  pthread_t ids[256];
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, NULL);
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  clock_gettime(CLOCK_MONOTONIC, &end);
  double seconds = (end.tv_sec - start.tv_sec) + 1e-9 * (end.tv_nsec - start.tv_nsec);
  return threads * (double)ROUNDS * CHAINS * flops_per_instruction / seconds / 1e9;
}

int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  double f32 = gflops(run_float32, threads, 32), bf16 = 0;
#ifdef __AVX512BF16__
  bf16 = gflops(run_bfloat16, threads, 64);
#endif
  printf("{\"threads\": %d, \"float32\": %.1f, \"bfloat16\": %.1f}\n", threads, f32, bf16);
  return 0;
}
