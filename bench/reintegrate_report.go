package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// notesRow is how -jobs names all of noteJobs.
const notesRow = "notes"

// selectReturns returns the trials in a comma-separated list, whether what notes
// cost is in it, and the rest of the list; all for "".
func selectReturns(list string) (chosen []*trial, notes bool, rest string) {
	if list == "" {
		return trials, true, ""
	}
	var left []string
next:
	for name := range strings.SplitSeq(list, ",") {
		if name == notesRow {
			notes = true
			continue
		}
		for _, tr := range trials {
			if tr.name == name {
				chosen = append(chosen, tr)
				continue next
			}
		}
		left = append(left, name)
	}
	return chosen, notes, strings.Join(left, ",")
}

func returnNames() []string {
	var names []string
	for _, tr := range trials {
		names = append(names, tr.name)
	}
	return append(names, notesRow)
}

// runReturns measures reintegrations and what notes cost, and returns the section
// of the report.
func runReturns(ctx context.Context, s *settings) (_ string, err error) {
	began := time.Now()
	y, err := newYard(s)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, y.lab.Close()) }()
	d := describe(ctx, s, y.lab.Dir())
	outcomes := map[string][]outcome{}
	for round := range s.rounds {
		for _, tr := range s.trials {
			o, err := y.measure(ctx, tr, round)
			if err != nil {
				return "", fmt.Errorf("%s: %w", tr.name, err)
			}
			outcomes[tr.name] = append(outcomes[tr.name], o)
			fmt.Fprintf(os.Stderr, "%5.0fs  round %d/%d  %-8s %s%s  %s of the limit\n", time.Since(began).Seconds(), round+1, s.rounds, tr.name, amount(o.rate), tr.unit, ratio(o.rate/o.limit()))
		}
	}
	text := ""
	if len(s.trials) > 0 {
		text += "\n" + returnTable(s.trials, s.effort, outcomes)
	}
	if s.notes {
		table, err := y.measureNotes(ctx, s, began)
		if err != nil {
			return "", err
		}
		text += "\n" + table
	}
	d.Took = time.Since(began)
	return d.String() + text, nil
}

// measureNotes runs every job of noteJobs without notes and with.
func (y *yard) measureNotes(ctx context.Context, s *settings, began time.Time) (_ string, err error) {
	targets, err := y.startNoting(ctx)
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, t.stop(ctx))
		}
	}()
	if err != nil {
		return "", err
	}
	r := newResults(description{})
	for round := range s.rounds {
		for i, j := range noteJobs {
			for k := range 2 {
				noted := (k+i+round)%2 == 1
				if err := syncDir(y.lab.Dir()); err != nil {
					return "", err
				}
				rates, err := targets[noteTarget(j.mode, noted)].do(ctx, j.job, stepRun, site{effort: s.effort})
				if err != nil {
					return "", fmt.Errorf("%s: %w", j.name, err)
				}
				r.add(j.job, noteTarget(j.mode, noted), round, rates)
			}
			plain, noted := r.rates[key{j.name, j.mode}][round], r.rates[key{j.name, noteTarget(j.mode, true)}][round]
			fmt.Fprintf(os.Stderr, "%5.0fs  round %d/%d  %-8s %s%s  with notes %s\n", time.Since(began).Seconds(), round+1, s.rounds, j.name, amount(plain), j.figures[0].unit, ratio(noted/plain))
		}
	}
	return noteTable(r), nil
}

// returnTable is the table of reintegrations in Markdown.
func returnTable(trials []*trial, e effort, outcomes map[string][]outcome) string {
	var b strings.Builder
	b.WriteString("| reintegration | | of reading | of writing at the second | of TCP | of the least |\n|---|---:|---:|---:|---:|---:|\n")
	for _, tr := range trials {
		rates := of(outcomes[tr.name], func(o outcome) float64 { return o.rate })
		fmt.Fprintf(&b, "| %s | %s%s |", tr.work(e), spread(rates, amount), tr.unit)
		for _, limit := range []func(outcome) float64{
			func(o outcome) float64 { return o.read }, func(o outcome) float64 { return o.write },
			func(o outcome) float64 { return o.tcp }, outcome.limit,
		} {
			limits := of(outcomes[tr.name], limit)
			if len(limits) == 0 {
				b.WriteString(" – |")
				continue
			}
			ratios := of(outcomes[tr.name], func(o outcome) float64 { return o.rate / limit(o) }) // a trial has a limit in all rounds or in none
			fmt.Fprintf(&b, " %s of %s |", spread(ratios, ratio), amount(median(limits)))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// of is a value of every outcome that has it.
func of(outcomes []outcome, value func(outcome) float64) (values []float64) {
	for _, o := range outcomes {
		if v := value(o); v > 0 {
			values = append(values, v)
		}
	}
	return values
}

// noteTable is the table of what notes cost in Markdown.
func noteTable(r *results) string {
	var b strings.Builder
	b.WriteString("| work | without notes | with notes |\n|---|---:|---:|\n")
	for _, j := range noteJobs {
		f := j.figures[0]
		fmt.Fprintf(&b, "| %s | %s%s | %s |\n", f.work, spread(r.rates[key{f.name, j.mode}], amount), f.unit,
			spread(r.ratiosTo(f.name, noteTarget(j.mode, true), j.mode), ratio))
	}
	return b.String()
}
