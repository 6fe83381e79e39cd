package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// figure is one line of a table: something about a run, and how to write it.
type figure struct {
	name  string
	of    func(run) float64
	write func(float64) string
}

var figures = []figure{
	{"first programming", func(r run) float64 { return float64(r.first.total) }, writeTime},
	{"  processor time", func(r run) float64 { return float64(r.cpu) }, writeTime},
	{"  planning's share", func(r run) float64 { return float64(r.first.plan) }, writeTime},
	{"an endpoint replaced, p50", func(r run) float64 { return float64(quantile(r.replaced, 0.5, total)) }, writeTime},
	{"  p99", func(r run) float64 { return float64(quantile(r.replaced, 0.99, total)) }, writeTime},
	{"  planning's share, p50", func(r run) float64 { return float64(quantile(r.replaced, 0.5, planning)) }, writeTime},
	{"  rules or elements written, p50", func(r run) float64 { return float64(quantile(r.replaced, 0.5, writes)) }, writeCount},
	{"  at most", func(r run) float64 { return float64(quantile(r.replaced, 1, writes)) }, writeCount},
	{"their number changed, p50", func(r run) float64 { return float64(quantile(r.recounted, 0.5, total)) }, writeTime},
	{"  p99", func(r run) float64 { return float64(quantile(r.recounted, 0.99, total)) }, writeTime},
	{"  rules or elements written, p50", func(r run) float64 { return float64(quantile(r.recounted, 0.5, writes)) }, writeCount},
	{"  at most", func(r run) float64 { return float64(quantile(r.recounted, 1, writes)) }, writeCount},
	{"chains", func(r run) float64 { return float64(r.kernel.chains) }, writeCount},
	{"rules", func(r run) float64 { return float64(r.kernel.rules) }, writeCount},
	{"set elements", func(r run) float64 { return float64(r.kernel.elements) }, writeCount},
	{"peak memory of the first", func(r run) float64 { return float64(r.memory) }, writeBytes},
	{"  of a process that it started, if ever more", func(r run) float64 { return float64(r.children) }, writeBytes},
}

// printTable writes runs of one size side by side, each but the first with its ratio to the first.
func printTable(w io.Writer, title string, runs ...run) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\t", title)
	for i, r := range runs {
		fmt.Fprintf(t, "%s\t", r.peer)
		if i > 0 {
			fmt.Fprint(t, "ratio\t")
		}
	}
	fmt.Fprintln(t)
	for _, f := range figures {
		fmt.Fprintf(t, "%s\t", f.name)
		base := f.of(runs[0])
		for i, r := range runs {
			v := f.of(r)
			fmt.Fprintf(t, "%s\t", f.write(v))
			if i > 0 {
				fmt.Fprintf(t, "%s\t", ratio(v, base))
			}
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	fmt.Fprintln(w)
}

func ratio(v, base float64) string {
	if v == 0 || base == 0 {
		return "–"
	}
	return fmt.Sprintf("×%.3g", v/base)
}

func writeTime(v float64) string { return fmt.Sprintf("%.3f ms", v/1e6) }

func writeCount(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", v)
}

func writeBytes(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f MB", v/1e6)
}
