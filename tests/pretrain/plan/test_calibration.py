"""Measured rates take the place of a data sheet's and of assumed shares; what was not measured stays as it was."""

import dataclasses
import json
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.devices import DEVICES
from pretrain.plan.advice import rests_on
from pretrain.plan.calibration import Calibration, read_calibration, write_calibration

H100 = Calibration(
    device="NVIDIA H100 80GB HBM3",
    date="2026-11-27",
    torch="2.13",
    backend="nccl",
    memory=7.9e10,
    bf16_products=7e14,
    fp32_products=5e13,
    attention=4e14,
    memory_bandwidth=2.9e12,
    link=3.7e11,
)
CPU = dataclasses.replace(H100, device="CPU", backend="gloo", bf16_products=3e10, fp32_products=6e10, attention=2e10)


def test_rates_come_out_as_they_were_measured() -> None:
    for found in (H100, CPU):
        cluster = found.cluster(8)
        assert cluster.efficiency * cluster.device.bf16_flops == pytest.approx(found.bf16_products)
        assert cluster.efficiency * cluster.device.fp32_flops == pytest.approx(found.fp32_products)
        assert cluster.device.memory_bandwidth == found.memory_bandwidth
        assert (cluster.device_name, cluster.backend, cluster.gpus_per_node) == (found.device, found.backend, 8)
    of_gpu, of_cpu = H100.cluster(8), CPU.cluster(8)
    assert of_gpu.attention_efficiency * of_gpu.device.bf16_flops == pytest.approx(H100.attention)
    assert of_cpu.attention_efficiency * of_cpu.device.fp32_flops == pytest.approx(CPU.attention)


def test_a_device_of_the_table_keeps_its_peak_and_one_of_none_has_what_it_reached() -> None:
    assert H100.cluster(8).device.bf16_flops == DEVICES["H100"].bf16_flops
    assert CPU.cluster(8).device.bf16_flops == CPU.bf16_products
    assert CPU.cluster(8).efficiency == 1.0


def test_links_that_were_not_there_are_the_data_sheets() -> None:
    assert H100.cluster(8).device.link == 3.7e11
    assert H100.cluster(8).device.network == DEVICES["H100"].network
    alone = dataclasses.replace(H100, link=None)
    assert alone.cluster(1).device.link == DEVICES["H100"].link
    slow = dataclasses.replace(CPU, link=2e9)
    assert slow.cluster(2).device.network == 2e9
    assert dataclasses.replace(H100, network=4e10).cluster(8).device.network == 4e10


def test_a_plan_says_that_they_were_measured() -> None:
    text = "\n".join(rests_on(H100.cluster(8)))
    assert "measured   products, attention, memory and links of NVIDIA H100 80GB HBM3 (2026-11-27, torch 2.13)" in text
    assert "data sheet (pretrain/devices.py)" not in text


def test_the_file_comes_back_and_another_one_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    write_calibration(path, H100)
    assert read_calibration(path) == H100
    values = json.loads(path.read_text())
    for change, said in (
        ({"memory_bandwith": 1.0}, "unknown key 'memory_bandwith'; did you mean 'memory_bandwidth'?"),
        ({"attention": 0.0}, "attention: must be above 0, is 0.0"),
        ({"backend": "mpi"}, "'backend' must be nccl or gloo"),
    ):
        path.write_text(json.dumps(values | change))
        with pytest.raises(InputError, match=r"^--device ") as error:
            read_calibration(path)
        assert said in str(error.value)
    path.write_text(json.dumps({"device": "CPU"}))
    with pytest.raises(InputError, match="'date' is missing"):
        read_calibration(path)
    with pytest.raises(InputError, match=r"no such calibration; `make calibrate` writes one"):
        read_calibration(tmp_path / "nowhere.json")
