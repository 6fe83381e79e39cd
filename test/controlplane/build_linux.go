package controlplane

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	repository = "../.." // from where the tests of this package, and of its neighbours, run
	// module is the nested module of the programs.
	module = repository + "/test/controlplane/programs"
	// dnsModule is the one of CoreDNS, whose dependencies are others.
	dnsModule = repository + "/test/dnspeer/programs"
	// programs is where Build puts what it builds, and keeps it: the Go command takes three seconds
	// to see that all is up to date there, and five minutes to build it on two cores.
	programs = repository + "/.cache/bin"
)

// Build builds etcd and kube-apiserver, and svcproxy as it is now. It needs the Go module proxy for
// modules that are not there yet, so it runs before the tests leave the machine's network.
func Build() error {
	fmt.Fprintln(os.Stderr, "building etcd, kube-apiserver and svcproxy: minutes the first time, then seconds")
	if err := build(module, "./etcd", "k8s.io/kubernetes/cmd/kube-apiserver"); err != nil {
		return err
	}
	return build(repository, "./cmd/svcproxy")
}

// BuildKubeProxy builds the proxy that svcproxy replaces, to compare the two.
func BuildKubeProxy() error {
	fmt.Fprintln(os.Stderr, "building kube-proxy: a minute or two the first time, then seconds")
	return build(module, "k8s.io/kubernetes/cmd/kube-proxy")
}

// BuildCoreDNS builds the DNS server of Kubernetes.
func BuildCoreDNS() error {
	fmt.Fprintln(os.Stderr, "building CoreDNS: a minute or two the first time, then seconds")
	return build(dnsModule, "github.com/coredns/coredns")
}

// build leaves none of the flags that a build depends on to the environment: with another one it
// would take the five minutes again. Only one builds at a time: whoever comes second finds all up to
// date and so replaces no program that the first runs by then.
func build(module string, packages ...string) (err error) {
	folder, err := filepath.Abs(programs)
	if err != nil {
		return err
	}
	unlock, err := lock(folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", folder + "/"}
	command := exec.Command("go", append(args, packages...)...)
	command.Dir = module
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("build %v in %s: %w", packages, module, err)
	}
	return nil
}

// lock waits until no other process holds the folder, which it makes if need be.
func lock(folder string) (unlock func() error, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of built programs: %w", err)
	}
	f, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("open the folder of built programs: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", folder, err), f.Close())
	}
	return f.Close, nil
}

// Program is the path of one that Build, BuildKubeProxy or BuildCoreDNS built.
func Program(name string) string { return filepath.Join(programs, name) }
