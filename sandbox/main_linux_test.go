package sandbox_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

// helperEnv makes the test binary one of the programs that tests start and kill.
const helperEnv = "SANDBOX_TEST_HELPER"

func TestMain(m *testing.M) {
	sandbox.Init()
	helper := map[string]func() error{"isolate": isolateHelper, "node": nodeHelper, "pods": podsHelper}[os.Getenv(helperEnv)]
	if helper == nil {
		nstest.Main(m)
	}
	fmt.Fprintln(os.Stderr, helper())
	syscall.Exit(1)
}

// isolateHelper runs its last argument as a shell script, isolated.
func isolateHelper() error {
	if sandbox.Isolated() == nil {
		return syscall.Exec("/bin/sh", []string{"sh", "-c", os.Args[len(os.Args)-1]}, os.Environ())
	}
	code, err := sandbox.Isolate(sandbox.Isolation{UserNamespace: os.Getenv(nstest.UserNamespaceEnv) == "1"})
	if err == nil {
		syscall.Exit(code)
	}
	return err
}

// nodeHelper makes a node, a host and a pod with a process in each, prints the names
// of their network namespaces and waits to be killed.
func nodeHelper() error {
	node, err := sandbox.NewNode(sandbox.NodeConfig{Name: "node"})
	if err != nil {
		return err
	}
	pod, err := node.AddPod(sandbox.PodConfig{Name: "pod", Addrs: addrs("10.244.0.3")})
	if err != nil {
		return err
	}
	host, err := node.AddHost(sandbox.HostConfig{Name: "host", Addrs: addrs("172.18.0.100")})
	if err != nil {
		return err
	}
	for _, ns := range []*sandbox.Netns{node.Netns, pod.Netns, host.Netns} {
		if err := ns.Start(exec.Command("sleep", "1000")); err != nil {
			return err
		}
		id, err := ns.ID()
		if err != nil {
			return err
		}
		fmt.Println(id)
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
