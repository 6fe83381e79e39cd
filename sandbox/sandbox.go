// Package sandbox makes a Kubernetes node, its pods and hosts outside the cluster
// from Linux primitives: network namespaces, veth pairs and routes, laid out as a
// node of kind has them. It needs no container runtime and no root: Isolate gives an
// unprivileged user a world of his own to build it in.
//
// A pod is a network namespace (PodConfig), or a whole one (PodConfig.Pause): then a
// pause process holds user, PID, mount, UTS and IPC namespaces too, and
// Pod.StartContainer runs programs with a tree of files of their own, made of image
// layers, an upper folder and mounts; Container.Exec adds programs to a running one.
//
//	pod, err := node.AddPod(sandbox.PodConfig{
//		Name: "default/web", Addrs: addrs, Pause: &sandbox.PauseConfig{Users: users},
//	})
//	c, err := pod.StartContainer(sandbox.ContainerConfig{
//		Name: "main", Layers: image.Layers, Upper: folder,
//		Args: []string{"bash"}, Env: []string{"PATH=/bin"}, Terminal: true,
//		Profile: confine.Profile{Capabilities: confine.DefaultCapabilities()},
//	})
//	<-c.Done() // c.Terminal() is the screen and keyboard, c.Status() how it ended
//
// A pod sees nothing of the host: not its files (only what mounts name), processes,
// devices (but null, zero, full, random, urandom and tty), keys or users. Pods need
// Linux 5.12 (overlayfs and mount_setattr in user namespaces), and a /proc without
// hidden parts; so inside most containers they cannot be made.
//
// Everything made here is anonymous and belongs to the program: it goes with Close,
// and also when the program is killed. Cgroups and upper folders are the caller's.
package sandbox
