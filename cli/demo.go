package cli

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skfs/skfs/e2e/demo"
	"github.com/skfs/skfs/e2e/lab"
)

// demoCommand shows skfs at work on two hosts made of namespaces.
func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "show a mirrored directory on two hosts made of namespaces: load, loss of the primary, takeover, return",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep", Usage: "leave the two hosts up, and say how to look at them"},
			&cli.BoolFlag{Name: "clean", Usage: "only remove the hosts that --keep left"},
			&cli.StringFlag{Name: "source", Usage: "the `DIR` to copy into the replicated directory (default: the source tree of Go)"},
		},
		Action: func(c *cli.Context) error {
			lab.Main(demo.Roles()) // the hosts' own processes come here, too
			if err := noArgs(c); err != nil {
				return err
			}
			if c.Bool("clean") {
				removed, err := lab.Sweep("", true)
				for _, dir := range removed {
					fmt.Fprintln(c.App.Writer, "removed", dir)
				}
				return err
			}
			source := c.String("source")
			if source == "" {
				var err error
				if source, err = goSource(); err != nil {
					return err
				}
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, unix.SIGINT, unix.SIGTERM)
			defer stop()
			return demo.Run(ctx, demo.Options{Skfs: self, Helper: []string{"demo"}, Source: source, Keep: c.Bool("keep"), Out: c.App.Writer})
		},
	}
}

// goSource is the source tree of the Go installation.
func goSource() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("the demonstration copies the source tree of Go, and \"go env GOROOT\" fails (%w): name another tree with --source DIR", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src"), nil
}
