package controlplane

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	repository = "../.." // from this package, where its tests run
	// programs is where Build puts what it builds, and keeps it: the Go command takes three seconds
	// to see that all is up to date there, and five minutes to build it on two cores.
	programs = repository + "/.cache/bin"
)

// Build builds etcd and kube-apiserver, and svcproxy as it is now. It needs the Go module proxy for
// modules that are not there yet, so it runs before the tests leave the machine's network.
func Build() error {
	fmt.Fprintln(os.Stderr, "building etcd, kube-apiserver and svcproxy: minutes the first time, then seconds")
	if err := build("programs", "./etcd", "k8s.io/kubernetes/cmd/kube-apiserver"); err != nil {
		return err
	}
	return build(repository, "./cmd/svcproxy")
}

// BuildKubeProxy builds the proxy that svcproxy replaces, to compare the two.
func BuildKubeProxy() error { return build("programs", "k8s.io/kubernetes/cmd/kube-proxy") }

// build leaves none of the flags that a build depends on to the environment: with another one it
// would take the five minutes again.
func build(module string, packages ...string) error {
	folder, err := filepath.Abs(programs)
	if err != nil {
		return err
	}
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

// program is the path of one that Build built.
func program(name string) string { return filepath.Join(programs, name) }
