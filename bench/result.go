package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// results are the rates of all measurements.
type results struct {
	run   description
	rates map[key][]float64 // by round
}

// key names a figure on a target.
type key struct{ figure, target string }

func newResults(d description) *results { return &results{run: d, rates: map[key][]float64{}} }

// add notes the rates of one job; rounds come in order.
func (r *results) add(j *job, target string, round int, rates []float64) {
	for i, f := range j.figures {
		k := key{f.name, target}
		r.rates[k] = append(r.rates[k][:round], rates[i])
	}
}

// ratios returns target ÷ native of each round.
func (r *results) ratios(figure, target string) []float64 { return r.ratiosTo(figure, target, native) }

// ratiosTo returns target ÷ to of each round.
func (r *results) ratiosTo(figure, target, to string) []float64 {
	var out []float64
	base := r.rates[key{figure, to}]
	for i, v := range r.rates[key{figure, target}] {
		if i < len(base) && base[i] > 0 {
			out = append(out, v/base[i])
		}
	}
	return out
}

// line is what one round of a job brought.
func (r *results) line(j *job, targets []string, round int) string {
	var b strings.Builder
	for _, f := range j.figures {
		fmt.Fprintf(&b, "%-8s", f.name)
		for _, t := range targets {
			if t == native {
				fmt.Fprintf(&b, " %s%s", amount(r.rates[key{f.name, t}][round]), f.unit)
			} else {
				fmt.Fprintf(&b, "  %s %s", t, ratio(r.ratios(f.name, t)[round]))
			}
		}
		b.WriteString("  ")
	}
	return b.String()
}

// headings of the targets' columns.
var headings = map[string]string{
	native: "native", floor: "floor", alone: "ALONE", second: "**`async=\"second\"`**", none: "`async=\"none\"`",
}

// table is the table in Markdown.
func (r *results) table(jobs []*job, targets []string) string {
	var b strings.Builder
	b.WriteString("| work |")
	for _, t := range targets {
		fmt.Fprintf(&b, " %s |", headings[t])
	}
	b.WriteString(" reach | | aim | |\n|---|" + strings.Repeat("---:|", len(targets)) + "---:|---|---:|---|\n")
	for _, j := range jobs {
		for _, f := range j.figures {
			fmt.Fprintf(&b, "| %s |", f.work)
			for _, t := range targets {
				if t == native {
					fmt.Fprintf(&b, " %s%s |", spread(r.rates[key{f.name, t}], amount), f.unit)
				} else {
					fmt.Fprintf(&b, " %s |", spread(r.ratios(f.name, t), ratio))
				}
			}
			got := median(r.ratios(f.name, second))
			fmt.Fprintf(&b, " %s | %s | %s | %s |\n", ratio(f.reach), towards(got, f.reach), ratio(f.aim), towards(got, f.aim))
		}
	}
	return b.String()
}

// median of values; NaN if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// spread is the median with the lowest and highest.
func spread(values []float64, show func(float64) string) string {
	switch len(values) {
	case 0:
		return "–"
	case 1:
		return show(values[0])
	}
	return fmt.Sprintf("%s (%s–%s)", show(median(values)), show(slices.Min(values)), show(slices.Max(values)))
}

// towards says how much of a goal was got.
func towards(got, goal float64) string {
	switch {
	case math.IsNaN(got):
		return "–"
	case got >= goal:
		return "met"
	}
	return fmt.Sprintf("%.0f %%", math.Floor(got/goal*100))
}

// ratio has two significant digits at least.
func ratio(r float64) string {
	if r < 0.1 {
		return fmt.Sprintf("%.3f", r)
	}
	return fmt.Sprintf("%.2f", r)
}

// amount is a rate without false precision.
func amount(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
