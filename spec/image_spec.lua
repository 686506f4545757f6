-- SPDX-License-Identifier: Apache-2.0
-- References, manifests and configs: text in, tables or errors out.
local errors = require "fcvm.errors"
local manifest = require "fcvm.image.manifest"
local reference = require "fcvm.image.reference"

local A = ("a"):rep(64)

local function fails(status, pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.equal(status, errors.exit_status(err), tostring(err))
  assert.matches(pattern, tostring(err))
end

describe("image references", function()
  it("of registries mean what they mean to Docker", function()
    for text, canonical in pairs {
      ["nginx"] = "docker.io/library/nginx:latest",
      ["nginx:alpine"] = "docker.io/library/nginx:alpine",
      ["docker://nginx:alpine"] = "docker.io/library/nginx:alpine",
      ["user/app"] = "docker.io/user/app:latest",
      ["index.docker.io/nginx"] = "docker.io/library/nginx:latest",
      ["docker.io/nginx:1"] = "docker.io/library/nginx:1",
      ["quay.io/a/b__c/d-e.f:T_1.2-3"] = "quay.io/a/b__c/d-e.f:T_1.2-3",
      ["localhost/x"] = "localhost/x:latest",
      ["localhost:5000/x/y"] = "localhost:5000/x/y:latest",
      ["REGISTRY/x"] = "REGISTRY/x:latest",
      ["nginx@sha256:" .. A] = "docker.io/library/nginx@sha256:" .. A,
      ["nginx:1@sha256:" .. A] = "docker.io/library/nginx@sha256:" .. A,
    } do
      assert.equal(canonical, reference.parse(text).canonical, text)
    end
  end)

  it("use plain HTTP with this machine only", function()
    for text, plain in pairs { ["localhost:5000/x"] = true, ["127.0.0.1/x"] = true, ["127.9.9.9:1/x"] = true,
      ["localhost.example.org/x"] = false, ["127.0.0.1.example.org/x"] = false,
      ["10.0.0.1:5000/x"] = false, ["nginx"] = false } do
      assert.equal(plain, reference.parse(text).plain, text)
    end
  end)

  it("that are none are refused with a hint", function()
    for _, text in ipairs { "", "UPPER", "a//b", "a/", "-a", "a-", "a..b", "a___b", "nginx:", "nginx:-x",
      "nginx:" .. ("t"):rep(129), "a b", "a\nb", "nginx@sha256:abc", "nginx@md5:" .. A, "nginx@sha256:" .. A:upper(),
      "host:99999/x", "host:/x",
      "ho_st.x/y",
      "http://x/y", "docker-daemon:x", "containers-storage:x", "dir:/x", "docker://",
      ("a/"):rep(300) .. "a",
      "x/" .. ("a"):rep(300),
      "oci:", "docker-archive:", "--help", "$(id)" } do
      fails(64, "%(", reference.parse, text)
    end
  end)

  it("of paths that lead nowhere say so", function()
    for _, text in ipairs { "./nowhere", "/nowhere", "oci:/nowhere", "oci:nowhere:tag", "docker-archive:/nowhere.tar",
      "docker-archive:/nowhere.tar:a/b:c" } do
      fails(66, "there is no such", reference.parse, text)
    end
  end)

  it("of directories have names that Podman takes", function()
    local found = reference.parse "oci:/usr/share/doc/:Ab_1"
    assert.equal("localhost/doc:Ab_1", found.name)
    assert.equal("layout", found.kind)
    assert.equal("Ab_1", found.tag)
    assert.equal("localhost/doc:latest", reference.parse("/usr/share/doc").name)
  end)
end)

describe("image manifests", function()
  local function descriptor(kind, n)
    return { digest = "sha256:" .. A, size = n or 10, mediaType = kind }
  end
  local LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

  it("of OCI and Docker are read", function()
    local found = manifest.manifest("x", { schemaVersion = 2, config = descriptor(), layers = { descriptor(LAYER, 5),
      descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 7) } })
    assert.equal(22, found.size)
    assert.equal(A, found.layers[2].hex)
  end)

  it("that make no sense are refused", function()
    local many = {}
    for i = 1, 513 do many[i] = descriptor(LAYER) end
    for _, document in ipairs { {}, { schemaVersion = 1 }, { schemaVersion = 2 }, { schemaVersion = 2, config = "x" },
      { schemaVersion = 2, config = descriptor(), layers = "x" }, { schemaVersion = 2, config = descriptor(), layers = { {} } },
      { schemaVersion = 2, config = descriptor(), layers = { descriptor "text/plain" } },
      { schemaVersion = 2, config = descriptor(), layers = { descriptor(LAYER, -1) } },
      { schemaVersion = 2, config = descriptor(), layers = { descriptor(LAYER, 1.5) } },
      { schemaVersion = 2, config = descriptor(), layers = { descriptor(LAYER, 1 << 60) } },
      { schemaVersion = 2, config = descriptor(nil, 5 << 20), layers = {} },
      { schemaVersion = 2, config = descriptor(), layers = { a = descriptor(LAYER) } },
      { schemaVersion = 2, config = descriptor(), layers = { [2] = descriptor(LAYER) } },
      { schemaVersion = 2, config = descriptor(), layers = many } } do
      fails(65, "read image x: ", manifest.manifest, "x", document)
    end
  end)

  it("let no digest be anything but one", function()
    assert.equal(A, manifest.hex("sha256:" .. A))
    for _, bad in ipairs { "sha256:" .. A .. "a", "sha256:" .. A:sub(2), "sha512:" .. A, A, "sha256:" .. A:upper(),
      "sha256:../" .. A:sub(4), "sha256:" .. A .. "\n", 5, {} } do
      assert.is_nil(manifest.hex(bad))
    end
  end)

  it("in an index are chosen by platform", function()
    local function entry(os, arch, n)
      return { digest = "sha256:" .. (n or "0"):rep(64), size = 1, platform = { os = os, architecture = arch } }
    end
    local list = { entry("windows", "amd64"), entry("linux", "arm64"), entry("linux", "amd64", "1"),
      entry("linux", "amd64", "2") }
    assert.equal(list[3], manifest.choose("x", list, "amd64"))
    fails(65, "it is for windows/amd64, arm64, amd64, not for riscv64", manifest.choose, "x", list, "riscv64")
    fails(65, "empty", manifest.choose, "x", {}, "amd64")
    local unsaid = { digest = "sha256:" .. A, size = 1 }
    assert.equal(unsaid, manifest.choose("x", { entry("linux", "arm64"), unsaid }, "amd64"))
  end)

  it("and configs that make no sense are refused", function()
    for _, config in ipairs { { architecture = "arm64" }, { os = "windows" }, { rootfs = { diff_ids = { "x" } } },
      { config = { Cmd = "x" } }, { config = { Env = { 1 } } }, { config = { User = {} } }, { architecture = {} } } do
      fails(65, "image x: ", manifest.config, "x", config, "amd64")
    end
    fails(65, "its config names 0 layers and its manifest 2", manifest.config, "x", {}, "amd64", 2)
    local found = manifest.config("x", { config = { Cmd = { "a" }, User = "",
      ExposedPorts = { ["80/tcp"] = {}, bad = {}, ["1"] = {} } } }, "amd64")
    assert.same({ "1", "80/tcp" }, { table.unpack(found.ExposedPorts) })
    assert.is_nil(found.User)
  end)
end)
