package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/skfs/skfs/conf"
	"github.com/skfs/skfs/ha"
	"github.com/skfs/skfs/web"
)

// lb are commands about the load balancing of farms.
func (a *App) lb() *cli.Command {
	drain := func(name, usage string, on bool) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "NODE", Flags: []cli.Flag{flagM()}, Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageOf(c, "expected the name of a node")
			}
			am, err := a.farmModule(c)
			if err != nil {
				return err
			}
			return a.client.FarmDrain(c.Context, am, web.Drain{Node: c.Args().First(), On: on})
		}}
	}
	return &cli.Command{
		Name: "lb", Usage: "load balancing of a farm: who serves a client, and members that are to get none",
		Subcommands: []*cli.Command{
			{
				Name: "who", Usage: "say which node serves a client, and why", ArgsUsage: "CLIENT[:PORT]",
				Flags: []cli.Flag{flagM(), flagJSON(),
					&cli.StringFlag{Name: "addr", Usage: "the virtual `ADDRESS`; default: the first one of the client's kind"},
					&cli.IntFlag{Name: "port", Usage: "the `PORT` of the service; default: that of the first rule"},
					&cli.StringFlag{Name: "proto", Value: "tcp", Usage: "tcp, udp or arp"}},
				Action: a.lbWho,
			},
			drain("drain", "give a node no new connections; those that it has stay", true),
			drain("undrain", "give a node connections again", false),
			{
				Name: "state", Usage: "show the members of a farm and what each has", Flags: []cli.Flag{flagM(), flagJSON()},
				Action: func(c *cli.Context) error { return a.showFarm(c, true) },
			},
		},
	}
}

func usageOf(c *cli.Context, format string, args ...any) error {
	return usage("%s: %s", c.Command.FullName(), fmt.Sprintf(format, args...))
}

// farmModule is the module that is meant: without -m the only farm that there is.
func (a *App) farmModule(c *cli.Context) (string, error) {
	if c.String("m") != "" {
		return module(c)
	}
	ms, err := a.client.Modules(c.Context)
	if err != nil {
		return "", err
	}
	var farms []string
	for _, m := range ms {
		if m.Configured && m.State.Mode == conf.Farm {
			farms = append(farms, m.Name)
		}
	}
	if len(farms) != 1 {
		return "", usageOf(c, "-m: which module? There are %d farms here %v", len(farms), farms)
	}
	return farms[0], nil
}

func (a *App) lbWho(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageOf(c, "expected the address of a client")
	}
	q := ha.FarmQuery{Proto: c.String("proto")}
	var err error
	text := c.Args().First()
	if q.Client, err = netip.ParseAddrPort(text); err != nil {
		addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
		if err != nil {
			return usageOf(c, "client %q: expected an address, with or without :PORT", text)
		}
		q.Client = netip.AddrPortFrom(addr, 0)
	}
	var service netip.Addr
	if text := c.String("addr"); text != "" {
		if service, err = netip.ParseAddr(strings.Trim(text, "[]")); err != nil {
			return usageOf(c, "--addr %q: expected a virtual address", text)
		}
	}
	if p := c.Int("port"); p < 0 || p > 65535 {
		return usageOf(c, "--port %d: expected 1 to 65535", p)
	}
	q.Service = netip.AddrPortFrom(service, uint16(c.Int("port")))
	am, err := a.farmModule(c)
	if err != nil {
		return err
	}
	answer, err := a.client.FarmWho(c.Context, am, q)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return a.printJSON(answer)
	}
	node := answer.Node
	if node == "" {
		node = "nobody"
	}
	_, err = fmt.Fprintf(a.out, "%s serves %s at %s: %s\n", node, q.Client, answer.Service, answer.Why)
	return err
}

// showFarm shows who has what: of this node alone, or of all.
func (a *App) showFarm(c *cli.Context, long bool) error {
	am, err := a.farmModule(c)
	if err != nil {
		return err
	}
	v, err := a.client.Farm(c.Context, am)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return a.printJSON(v)
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	if long {
		fmt.Fprintln(w, "Node\tMember\tServes\tDrain")
		for _, m := range v.Members {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, onOff(m.Member), onOff(m.Serving), onOff(m.Draining))
		}
		fmt.Fprintln(w)
	}
	for _, g := range v.Groups {
		if g.Name == "" && !long {
			continue
		}
		name := "group " + g.Name
		if g.Name == "" {
			name = "what no rule matches"
		}
		fmt.Fprintf(w, "%s\n", name)
		for _, s := range g.Shares {
			if !long && s.Node != v.Node {
				continue
			}
			if fmt.Fprintf(w, "Bitmap %d:%s", s.Number, s.Bitmap); long {
				fmt.Fprintf(w, "\t%s\t%d/256\tleaving %d", s.Node, s.Buckets, s.Leaving)
			}
			fmt.Fprintln(w)
		}
	}
	if long {
		for _, f := range v.Filters {
			fmt.Fprintf(w, "\n%s %v\nRule\tAccepted\tDropped\tForwarded\tHeld\tLeft\tExpired\n", f.Mode, f.Addresses)
			for _, n := range f.Counts {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\n", n.Rule, n.Accepted, n.Dropped, n.Forwarded, n.Held, n.Left, n.Expired)
			}
		}
	}
	return w.Flush()
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// vipIfCtrl is the product's special command about the filters (§4.3.5): -l shows the
// bitmap of this node, -L everything.
func (a *App) vipIfCtrl() *cli.Command {
	return &cli.Command{
		Name: "vip_if_ctrl", Usage: "show the load balancing bitmap of a farm (-r vip_if_ctrl -l)", Hidden: true,
		Flags: []cli.Flag{flagM(), flagJSON(),
			&cli.BoolFlag{Name: "l", Usage: "the bitmap of this node"},
			&cli.BoolFlag{Name: "L", Usage: "all bitmaps, rules and counts"}},
		Action: func(c *cli.Context) error {
			if c.Bool("l") == c.Bool("L") {
				return usageOf(c, "expected -l or -L")
			}
			return a.showFarm(c, c.Bool("L"))
		},
	}
}
