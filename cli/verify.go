package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/replica"
)

// Exit codes of rfsverify and repair, as those of diff(1).
const (
	exitDiffers  = 1
	exitVerified = 2 // not: it could not be done
)

// rfsverify compares the replicated directories of both nodes, while the application
// works (§13.6.4.5); repair has mended what differs.
func (a *App) rfsverify() *cli.Command {
	return a.verifyCommand("rfsverify", "on SECOND: what differs from the primary (exit code 1 if anything does)", false)
}

func (a *App) repair() *cli.Command {
	return a.verifyCommand("repair", "on SECOND: rfsverify, and copy again what differs", true)
}

func (a *App) verifyCommand(name, use string, repair bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: use, Flags: []cli.Flag{flagM(), flagJSON()},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			tell := func(l replica.VerifyLine) {
				if l.Difference != nil {
					a.printf("%s\n", differenceText(l.Difference))
				}
			}
			if c.Bool("json") {
				tell = func(l replica.VerifyLine) { a.printJSON(l) }
			}
			sum, err := replica.NewClient(a.paths.ReplicaSocket(am)).Verify(c.Context, repair, tell)
			switch {
			case c.Context.Err() != nil:
				return c.Context.Err()
			case noReplica(err):
				err = fmt.Errorf("module %s replicates nothing now: start it", am)
				fallthrough
			case err != nil:
				return cli.Exit(fmt.Sprintf("%s: %v", name, err), exitVerified)
			case c.Bool("json"):
				err = a.printJSON(replica.VerifyLine{Summary: &sum})
			default:
				a.printf("%s\n", summaryText(sum))
			}
			if err == nil && sum.Differences > 0 {
				err = cli.Exit("", exitDiffers)
			}
			return err
		},
	}
}

// maxShown bounds the ranges of one file that are printed.
const maxShown = 8

func differenceText(d *replica.VerifyDifference) string {
	b := fmt.Sprintf("%s: %s", d.Path, d.What)
	if d.Detail != "" {
		b += " (" + d.Detail + ")"
	}
	if len(d.Ranges) == 0 {
		return b
	}
	var list []string
	for i, r := range d.Ranges {
		if i == maxShown {
			list = append(list, "…")
			break
		}
		list = append(list, fmt.Sprintf("%d-%d", r.Off, r.End-1))
	}
	return b + fmt.Sprintf(": %d bytes in blocks that differ: %s", d.Bytes, strings.Join(list, ", "))
}

func summaryText(s replica.VerifySummary) string {
	b := fmt.Sprintf("Verified %d directories, %d files (%s) and %d other objects in %v: ", s.Directories, s.Files, byteText(s.Bytes), s.Others,
		s.Duration.Round(10*time.Millisecond))
	switch {
	case s.Differences == 0:
		return b + "no difference"
	case s.Mended:
		return b + fmt.Sprintf("%d differences, which have been repaired", s.Differences)
	}
	return b + fmt.Sprintf("%d differences", s.Differences)
}
