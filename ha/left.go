package ha

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/skfs/skfs/conf"
)

// LeftRunning says whether a module was left running by a daemon that is not there now:
// its application runs, whoever watches it or not. The caller holds the daemon's lock.
func LeftRunning(p conf.Paths, module string) (bool, error) {
	boot, err := bootID()
	if err != nil {
		return false, err
	}
	s, err := readNewest(p.HAState(module), boot)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("whether module %s runs is not known: %w", module, err)
	}
	return s.Boot == boot && s.State.Role != RoleStop, nil
}
