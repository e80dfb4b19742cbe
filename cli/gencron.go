package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

const gencronUsage = `gencron: expected del|add USER all|COMMAND -c "COMMENT"`

// gencron disables entries of a user's crontab by turning them into comments (del),
// and enables them again (add), so that they run on the primary only (§14.4.2.1).
func (a *App) gencron(ctx context.Context, args []string) error {
	comment := "skfs"
	if i := slices.Index(args, "-c"); i >= 0 {
		if i+1 >= len(args) {
			return usage("%s", gencronUsage)
		}
		comment = args[i+1]
		args = slices.Delete(slices.Clone(args), i, i+2)
	}
	if len(args) != 3 || args[0] != "del" && args[0] != "add" {
		return usage("%s", gencronUsage)
	}
	if comment == "" || strings.ContainsAny(comment, "#\n") {
		return usage("gencron -c %q: expected a comment of one line without '#'", comment)
	}
	user := args[1]
	var problems bytes.Buffer
	list := exec.CommandContext(ctx, "crontab", "-u", user, "-l")
	list.Stderr = &problems
	old, err := list.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && strings.HasPrefix(strings.TrimSpace(problems.String()), "no crontab for"):
		return nil
	case err != nil:
		return fmt.Errorf("crontab -u %s -l: %w: %s", user, err, strings.TrimSpace(problems.String()))
	}
	edited, n := editCrontab(string(old), args[0] == "add", args[2], comment)
	if n == 0 {
		return nil
	}
	set := exec.CommandContext(ctx, "crontab", "-u", user, "-")
	set.Stdin = strings.NewReader(edited)
	if out, err := set.CombinedOutput(); err != nil {
		return fmt.Errorf("crontab -u %s -: %w: %s", user, err, bytes.TrimSpace(out))
	}
	return nil
}

var cronVariable = regexp.MustCompile(`^\s*["']?[A-Za-z_][A-Za-z0-9_]*["']?\s*=`)

// editCrontab enables (add) or disables the entries of a command, or "all", in the text
// of a crontab(5), and says how many it has changed. An entry that is disabled stands
// behind "#comment# ". Only those are enabled again that the same comment disabled.
func editCrontab(text string, add bool, command, comment string) (string, int) {
	header := "#" + comment + "# "
	lines := strings.SplitAfter(text, "\n")
	n := 0
	for i, line := range lines {
		entry, disabled := strings.CutPrefix(line, header)
		if disabled != add || !add && (strings.HasPrefix(strings.TrimSpace(line), "#") || strings.TrimSpace(line) == "" || cronVariable.MatchString(line)) {
			continue
		}
		if command != "all" && !cronCalls(entry, command) {
			continue
		}
		if n++; add {
			lines[i] = entry
		} else {
			lines[i] = header + line
		}
	}
	return strings.Join(lines, ""), n
}

// cronCalls says that a word of the entry's command is the name of a command, with or
// without its directory.
func cronCalls(entry, command string) bool {
	times := 5
	if strings.HasPrefix(strings.TrimSpace(entry), "@") {
		times = 1 // @daily
	}
	fields := strings.Fields(entry)
	if len(fields) <= times {
		return false
	}
	words := strings.FieldsFunc(strings.Join(fields[times:], " "), func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("|&;<>()\"'`", r) })
	return slices.ContainsFunc(words, func(w string) bool { return w == command || path.Base(w) == command })
}
