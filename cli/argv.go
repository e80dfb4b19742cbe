package cli

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// normalise brings a command line into the order that the library reads:
// command, flags, arguments. In the guide's syntax flags may stand anywhere.
//
//	start -m AM             → start -m AM
//	-m AM second fullsync   → second -m AM fullsync
//	waitstate -m AM PRIM    → waitstate -m AM PRIM
//	-r cmd -x               → run -- cmd -x      (everything belongs to cmd)
//
// An en dash at the start of a word, which word processors make of a hyphen, is
// taken for a hyphen.
func normalise(commands []*cli.Command, argv []string) []string {
	if len(argv) == 0 {
		return argv
	}
	all := valueFlags(commands)
	var words, flags []string
	takesValue := func(name string) bool {
		if len(words) > 0 {
			if c := find(commands, words[0]); c != nil {
				return valueFlags([]*cli.Command{c})[name]
			}
		}
		return all[name]
	}
	for i := 1; i < len(argv); i++ {
		arg := argv[i]
		if rest, ok := strings.CutPrefix(arg, "–"); ok {
			arg = "-" + rest
		}
		switch {
		case arg == "--":
			words = append(words, argv[i+1:]...)
			i = len(argv)
		case arg == "-r" && len(words) == 0:
			return append([]string{argv[0], "run", "--"}, argv[i+1:]...)
		case arg == "-H" || arg == "-E" || arg == "-G":
			return []string{argv[0], arg} // distributed commands: refused as a whole
		case len(arg) < 2 || arg[0] != '-':
			words = append(words, arg)
		default:
			flags = append(flags, arg)
			name, _, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			if takesValue(name) && !inline && i+1 < len(argv) {
				i++
				flags = append(flags, argv[i])
			}
		}
	}
	out := []string{argv[0]}
	for len(words) > 0 {
		c := find(commands, words[0])
		if c == nil {
			break
		}
		out, words, commands = append(out, c.Name), words[1:], c.Subcommands
	}
	if len(words) == 0 || len(commands) == 0 { // else words[0] is no command: that is to be reported, no flag
		out = append(out, flags...)
	}
	if len(words) > 0 {
		out = append(append(out, "--"), words...)
	}
	return out
}

// valueFlags names the flags that take a value. A name may take one in one command
// and none in another, but not within a group of commands, and not -m, which may
// stand before the command; a test holds it.
func valueFlags(commands []*cli.Command) map[string]bool {
	m := map[string]bool{}
	for _, c := range commands {
		for _, f := range c.Flags {
			if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
				for _, n := range f.Names() {
					m[n] = true
				}
			}
		}
		for n := range valueFlags(c.Subcommands) {
			m[n] = true
		}
	}
	return m
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}
