package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/replica"
)

// assumedRate is the throughput of a synchronization where nothing limits it,
// bytes a second: a gigabit network.
const assumedRate = 100 << 20

// rfsdiff says how much the other node lacks (§13.6.4.6). It reads the notes of
// the replica, not the tree.
func (a *App) rfsdiff() *cli.Command {
	return &cli.Command{
		Name: "rfsdiff", Usage: "on ALONE: how much was changed since the last synchronization",
		Flags: []cli.Flag{flagM(), flagJSON()},
		Action: func(c *cli.Context) error {
			am, err := onlyModule(c)
			if err != nil {
				return err
			}
			d, err := replica.NewClient(a.paths.ReplicaSocket(am)).Diff(c.Context)
			if noReplica(err) {
				return fmt.Errorf("rfsdiff: module %s replicates nothing now: start it", am)
			}
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return a.printJSON(d)
			}
			return printDiff(a.out, am, d)
		},
	}
}

func printDiff(w io.Writer, am string, d replica.Diff) error {
	peer := d.Peer
	if peer == "" {
		peer = "the other node"
	}
	if d.All {
		_, err := fmt.Fprintf(w, "Module %s was never synchronized: %s lacks everything\n", am, peer)
		return err
	}
	rate, because := int64(assumedRate), "assumed"
	if d.Limit > 0 && d.Limit < rate {
		rate, because = d.Limit, "reiallowedbw"
	}
	// A directory or object costs little more than its share of a round trip.
	names := time.Duration(d.Directories+d.Attributes+d.Born+d.Files) * 100 * time.Microsecond
	left := time.Duration(float64(d.Bytes)/float64(rate)*float64(time.Second)) + names
	_, err := fmt.Fprintf(w, `What %s lacks of module %s:
  files with changed data          %d
  size to compare, at most to copy %s
  directories with changed names   %d
  objects with changed attributes  %d
  new objects                      %d
Estimated duration: %v at %s/s (%s)
`, peer, am, d.Files, byteText(d.Bytes), d.Directories, d.Attributes, d.Born, left.Round(10*time.Millisecond), byteText(rate), because)
	if err == nil && d.Connected {
		_, err = fmt.Fprintf(w, "%s is connected: it is being brought up to date, or lacks only what is not yet on its disk\n", peer)
	}
	return err
}
