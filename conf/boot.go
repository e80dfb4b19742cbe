package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The setting of the command boot (guide §9.2) is a file of one word, on or off,
// SAFEVAR/modules/AM/boot. It counts while userconfig.xml has boot="ignore".

func (p Paths) bootFile(am string) string { return filepath.Join(p.UserVar(am), "boot") }

// SetBoot sets whether module am starts with its node.
func (p Paths) SetBoot(am string, on bool) error {
	if _, err := p.ModuleID(am); err != nil {
		return err
	}
	if err := os.MkdirAll(p.UserVar(am), 0o755); err != nil {
		return err
	}
	b := BootOff
	if on {
		b = BootOn
	}
	return writeFile(p.bootFile(am), []byte(string(b)+"\n"), 0o644)
}

// BootSetting is what SetBoot has set; BootOff if nothing was.
func (p Paths) BootSetting(am string) (Boot, error) {
	data, err := os.ReadFile(p.bootFile(am))
	switch s := string(data); {
	case errors.Is(err, fs.ErrNotExist):
		return BootOff, nil
	case err != nil:
		return "", err
	case s == "on\n":
		return BootOn, nil
	case s == "off\n":
		return BootOff, nil
	default:
		return "", fmt.Errorf("%s: %q: expected on or off", p.bootFile(am), s)
	}
}
