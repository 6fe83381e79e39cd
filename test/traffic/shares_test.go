package traffic

import (
	"math"
	"math/rand/v2"
	"testing"

	"svcproxy/test/nstest"
)

// seed makes whatever a test draws itself the same in every run: source ports, in what order they come,
// above all.
const seed = 20240

// fullShare is how many connections tell every wrong share in TestUnequalSharesAreRefused from chance.
const fullShare = 2000

// shareConnections is how many connections shares are measured with.
func shareConnections() int { return nstest.Sized(500, fullShare) }

// leastP is the least probability at which shares pass for equal. A right ruleset fails a test with this
// probability, which is the price of a kernel whose random numbers nobody can seed.
const leastP = 1e-6

// equalSharesP returns the probability that counts as uneven as these, or more, come from equal shares, by
// Pearson's chi-square test.
func equalSharesP(counts []int) float64 {
	total := 0
	for _, n := range counts {
		total += n
	}
	expected := float64(total) / float64(len(counts))
	sum := 0.0
	for _, n := range counts {
		d := float64(n) - expected
		sum += d * d / expected
	}
	return chiSquareTail(sum, len(counts)-1)
}

// chiSquareTail returns the probability that a chi-square variable with df degrees of freedom, at least 1,
// exceeds x. It is the finite sum of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.4 (odd
// df) and 26.4.5 (even df), written as the recurrence Q(a+1, y) = Q(a, y) + y^a e^-y / Γ(a+1) of the
// incomplete gamma function with a = df/2 and y = x/2. All its terms are positive.
func chiSquareTail(x float64, df int) float64 {
	y := x / 2
	a, q := 1.0, math.Exp(-y)
	if df%2 == 1 {
		a, q = 0.5, math.Erfc(math.Sqrt(y))
	}
	for ; a < float64(df)/2; a++ {
		lg, _ := math.Lgamma(a + 1)
		q += math.Exp(a*math.Log(y) - y - lg)
	}
	return q
}

// The values are the upper critical values of the chi-square distribution in the NIST/SEMATECH e-Handbook
// of Statistical Methods, 1.3.6.7.4.
func TestChiSquareTailIsThatOfTheTables(t *testing.T) {
	for _, c := range []struct {
		x    float64
		df   int
		want float64
	}{
		{2.706, 1, 0.10}, {3.841, 1, 0.05}, {6.635, 1, 0.01}, {10.828, 1, 0.001},
		{4.605, 2, 0.10}, {5.991, 2, 0.05}, {9.210, 2, 0.01}, {13.816, 2, 0.001},
		{7.815, 3, 0.05}, {9.488, 4, 0.05}, {18.467, 4, 0.001},
		{14.684, 9, 0.10}, {16.919, 9, 0.05}, {21.666, 9, 0.01}, {27.877, 9, 0.001},
		{124.342, 100, 0.05}, {149.449, 100, 0.001},
	} {
		if got := chiSquareTail(c.x, c.df); math.Abs(got-c.want) > c.want/200 {
			t.Errorf("tail at %v with %d degrees of freedom: got %v, want %v", c.x, c.df, got, c.want)
		}
	}
}

// draw counts n draws from weighted choices, the same in every run.
func draw(n int, weights ...float64) []int {
	random := rand.New(rand.NewPCG(seed, uint64(len(weights))))
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	counts := make([]int, len(weights))
	for range n {
		x := random.Float64() * sum
		for i, w := range weights {
			if x -= w; x < 0 {
				counts[i]++
				break
			}
		}
	}
	return counts
}

func TestEqualSharesPass(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10} {
		weights := make([]float64, n)
		for i := range weights {
			weights[i] = 1
		}
		for _, connections := range []int{shareConnections(), fullShare} {
			if counts := draw(connections, weights...); equalSharesP(counts) < leastP {
				t.Errorf("equal shares refused: p = %v for %v", equalSharesP(counts), counts)
			}
		}
	}
}

// Each of these is what some wrong ruleset would give.
func TestUnequalSharesAreRefused(t *testing.T) {
	for what, weights := range map[string][]float64{
		"each rule of three taken with 1/3 of what the one before left": {9, 6, 12},
		"one of ten endpoints never chosen":                             {1, 1, 1, 1, 1, 1, 1, 1, 1, 0},
		"one of ten endpoints in two slots":                             {1, 1, 1, 1, 1, 1, 1, 1, 1, 2},
		"an index drawn from 5 for 3 endpoints, the first as a retry":   {3, 1, 1},
		"all to one of two":                                             {1, 0},
		"two thirds to one of two":                                      {2, 1},
	} {
		if counts := draw(fullShare, weights...); equalSharesP(counts) >= leastP {
			t.Errorf("%s passes: p = %v for %v", what, equalSharesP(counts), counts)
		}
	}
}
