package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// tool is a program that the demo shows svcproxy with.
type tool struct{ program, pkg string }

func tools(mode string) []tool {
	all := []tool{{"dig", "dnsutils"}, {"curl", "curl"}, {"conntrack", "conntrack"}, {"ip", "iproute2"}}
	if mode == "iptables" {
		return append(all, tool{"iptables-save", "iptables"})
	}
	return append(all, tool{"nft", "nftables"})
}

// Prepare installs the tools that are missing, where that is possible without asking anybody: with
// apt-get, as root or through a sudo that asks for no password. What is still missing afterwards, the
// demo names and goes on without. It must be called where the network can be reached.
func Prepare(ctx context.Context, mode string, log func(format string, args ...any)) {
	if err := widenPath(); err != nil {
		log("%v", err)
	}
	var packages []string
	for _, t := range tools(mode) {
		if findTool(t.program) == "" {
			packages = append(packages, t.pkg)
		}
	}
	if len(packages) == 0 {
		return
	}
	prefix, ok := installer(ctx)
	if !ok {
		return
	}
	log("installing %s", strings.Join(packages, ", "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages...)} {
		argv := append(append(prefix, "apt-get"), args...)
		c := exec.CommandContext(ctx, argv[0], argv[1:]...)
		c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := c.CombinedOutput(); err != nil {
			log("%s: %v\n%s", strings.Join(argv, " "), err, out)
			return
		}
	}
}

// usable returns the mode in which the demo can be told: a mode whose program is missing is named, and the
// story is told with the other, which needs none.
func usable(mode string, say func(format string, args ...any)) string {
	if mode == "iptables" && findTool("iptables") == "" {
		say("(iptables is not installed: install the package iptables to see this mode; going on with nftables)")
		return "nftables"
	}
	return mode
}

// installer returns what to put before apt-get, and whether it may be called at all.
func installer(ctx context.Context) (prefix []string, ok bool) {
	if findTool("apt-get") == "" {
		return nil, false
	}
	if os.Geteuid() == 0 {
		return nil, true
	}
	if err := exec.CommandContext(ctx, "sudo", "-n", "true").Run(); err != nil {
		return nil, false
	}
	return []string{"sudo", "-n"}, true
}

// findTool returns the path of a program, or "".
func findTool(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	return path
}

// widenPath adds the folders of the network tools to PATH, which an ordinary user's often lacks.
func widenPath() error { return os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin") }

// missing names the package of a tool that is not there, or returns nil.
func missing(mode, program string) error {
	if findTool(program) != "" {
		return nil
	}
	for _, t := range tools(mode) {
		if t.program == program {
			return fmt.Errorf("%s is not installed: install the package %s to see this", program, t.pkg)
		}
	}
	return fmt.Errorf("%s is not installed", program)
}
