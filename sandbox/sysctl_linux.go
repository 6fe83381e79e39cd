package sandbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// namespaced are the settings that belong to a pod's own namespaces; those that end in
// a dot are whole groups. Kubernetes has the same list.
var namespaced = []string{"net.", "fs.mqueue.", "kernel.shm", "kernel.msg", "kernel.sem"}

// checkSysctls refuses settings that would be the whole machine's.
func checkSysctls(sysctls map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		own := slices.ContainsFunc(namespaced, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if !own || strings.Contains(name, "..") || strings.Contains(name, "/") {
			return fmt.Errorf("sysctl %q: not of a pod's own namespaces, which are %v", name, namespaced)
		}
	}
	return nil
}

func isNetSysctl(name string) bool { return strings.HasPrefix(name, "net.") }

// sysctlPath names the setting's file.
func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }
