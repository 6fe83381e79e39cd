package conntrack

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"svcproxy/netns"
)

// sysctls is where the kernel shows the settings of the reader's network namespace.
const sysctls = "/proc/sys/net/netfilter/"

// Apply sets what differs in the network namespace at a path, or the caller's if it is empty. What can't be
// set keeps nothing else from it; the error names each. The size of the table can only be set in the machine's own
// namespace, and by nobody where /proc/sys is read-only.
func (s Sysctls) Apply(path string) error {
	wanted := s.list(processors())
	return netns.Do(path, func() error {
		var errs []error
		for _, w := range wanted {
			if err := w.apply(); err != nil {
				errs = append(errs, fmt.Errorf("set net.netfilter.%s to %d: %w", w.name, w.value, err))
			}
		}
		return errors.Join(errs...)
	})
}

func (w sysctl) apply() error {
	text, err := os.ReadFile(sysctls + w.name)
	if err != nil {
		return err
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && (now == w.value || w.least && now > w.value) {
		return nil
	}
	return os.WriteFile(sysctls+w.name, strconv.AppendInt(nil, int64(w.value), 10), 0o644)
}

// processors counts those of the machine. runtime.NumCPU counts those that this process may use, and the table is
// everybody's.
func processors() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err == nil {
		if n, err := parseCPUs(string(text)); err == nil {
			return n
		}
	}
	return runtime.NumCPU()
}
