package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	roleEnv = "SKFS_LAB_ROLE"
	argsEnv = "SKFS_LAB_ARGS"
)

// Role is something the program does in a helper process.
type Role func(args []string) error

// Main returns at once in an ordinary process. In a helper process, which is one
// that was started with RoleEnv, it takes the role and never returns. A program
// that uses a lab calls it before anything else, with the roles of its own.
func Main(roles map[string]Role) {
	name := os.Getenv(roleEnv)
	if name == "" {
		return
	}
	role := roles[name]
	switch name {
	case holderRole:
		role = hold
	case guardRole:
		role = guard
	}
	var args []string
	err := json.Unmarshal([]byte(os.Getenv(argsEnv)), &args)
	// What the helper starts is no helper.
	os.Unsetenv(roleEnv)
	os.Unsetenv(argsEnv)
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", argsEnv, err)
	case role == nil:
		err = fmt.Errorf("%s: there is no role %q", roleEnv, name)
	default:
		err = role(args)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// RoleEnv is the environment that makes Self take a role.
func RoleEnv(role string, args ...string) []string {
	b, err := json.Marshal(args)
	if err != nil {
		panic(err) // strings always marshal
	}
	return []string{roleEnv + "=" + role, argsEnv + "=" + string(b)}
}

// RoleShell is RoleEnv and the program self, as the beginning of a simple command of
// the shell: what a module's scripts start a role with.
func RoleShell(self []string, role string, args ...string) string {
	var words []string
	for _, e := range RoleEnv(role, args...) {
		name, value, _ := strings.Cut(e, "=")
		words = append(words, name+"="+quote(value))
	}
	for _, word := range self {
		words = append(words, quote(word))
	}
	return strings.Join(words, " ")
}

// quote makes a word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Self is the command that runs this program so that it comes to Main.
func (l *Lab) Self() []string {
	exe, err := os.Executable()
	if err != nil {
		exe = "/proc/self/exe"
	}
	return append([]string{exe}, l.helper...)
}

// RoleCommand prepares a helper process of this program for Start.
func (h *Host) RoleCommand(ctx context.Context, role string, args ...string) *exec.Cmd {
	argv := h.lab.Self()
	cmd := h.Command(ctx, argv[0], argv[1:]...)
	cmd.Env = append(cmd.Env, RoleEnv(role, args...)...)
	return cmd
}
